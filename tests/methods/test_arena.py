"""Arenas: all tensors of a bound adapter in one allocation, with nothing shared moved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.kernels.base import LowRank
from manyhats.methods.arena import ALIGNMENT, hiding, in_arena, tensors_in, with_tensors
from manyhats.methods.bound_adapter import BoundAdapter
from torch import Tensor

from tests import every, tiny


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def bert(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder: Path = tiny.write_base("bert", tmp_path_factory.mktemp("bert"))
    return Backbone.load(str(folder), device="cpu", dtype=request.param)


def tensors_of(bound: BoundAdapter) -> Iterator[Tensor]:
    """Those in its table entries."""
    for operation in bound.operations:
        for column in operation.columns:
            if isinstance(column, tuple):
                yield from (value for value in column if isinstance(value, Tensor))


def storages(tensors: Iterator[Tensor]) -> dict[int, int]:
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def test_a_lora_is_one_allocation_of_its_bytes(bert: Backbone) -> None:
    bound = tiny.adapter(bert, "lora", 1).bind(bert)
    found = storages(tensors_of(bound))
    assert len(found) == 1
    count = len(list(tensors_of(bound)))
    assert bound.nbytes <= sum(found.values()) < bound.nbytes + count * ALIGNMENT
    assert all(t.data_ptr() % ALIGNMENT == 0 and t.is_contiguous() for t in tensors_of(bound))


def test_no_adapter_keeps_what_it_was_read_into(bert: Backbone) -> None:
    """No tensor of a bound adapter is one of its files', nor does it share memory with one."""
    own = storages(iter([*bert.model.parameters(), *bert.model.buffers()]))
    for name, part in every.parts(bert).items():
        read = storages(tensor for leaves in part.tensors.values() for tensor in leaves.values())
        bound = Adapter((part,), None, "embed", 1).bind(bert)
        found = storages(tensors_of(bound))
        assert not found.keys() & read.keys(), name
        assert len(found.keys() - own.keys()) <= 1, name


def test_what_is_shared_or_not_frozen_stays() -> None:
    class Own:
        def __init__(self) -> None:
            self.tensor = torch.ones(3)

    own, kept, shared = Own(), torch.ones(2, 3), torch.arange(6.0).view(2, 3).T
    pair = LowRank(torch.ones(5, 3), shared, None, None, "relu", 2.0)
    expanded = torch.ones(1).expand(1000)
    value: dict[str, Any] = {"a": [pair, own, expanded], "b": (kept, shared), "c": "text", "d": torch.empty(0)}
    found = tensors_in(value)
    assert {id(tensor) for tensor in found} == {id(t) for t in (pair.down, shared, expanded, kept, value["d"])}
    moved = [pair.down, shared]
    new = with_tensors(value, moved, in_arena(moved))
    same = [(new["a"][1], own), (new["a"][2], expanded), (new["b"][0], kept), (new["d"], value["d"])]
    assert all(one is other for one, other in same)
    up = new["a"][0].up
    assert (up is new["b"][1], new["a"][0][2:]) == (True, pair[2:])
    assert (up.tolist(), up.stride()) == (shared.tolist(), shared.stride())
    assert (value["a"][0] is pair, value["b"][1] is shared) == (True, True)  # the value itself is as it was
    assert with_tensors({"c": 1}, [], in_arena([])) == {"c": 1}
    assert (hiding(value), hiding(new["a"][0])) == (Own, None)
