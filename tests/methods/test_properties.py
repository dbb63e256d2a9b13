"""What must hold for every method: order and company do not matter, and loading again changes nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.registry import METHODS
from torch import Tensor

from tests import every, tiny
from tests.families import one_of_each

TEXTS = tiny.texts([1, 4, 13, 26, 9], seed=12)
CLOSE = 5e-5
_quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def test_every_method_is_tried(load_backbone: Any) -> None:
    assert set(every.parts(load_backbone("bert"))) == set(METHODS)


@pytest.fixture(scope="module")
def bound_adapters(load_backbone: Any) -> Any:
    """By family: the bound adapters, and what each answers alone."""

    @cache
    def make(family: str) -> tuple[Backbone, list[BoundAdapter], list[list[Tensor]]]:
        backbone = load_backbone(family)
        bound = [BARE, *(adapter.bind(backbone) for adapter in every.adapters(backbone).values())]
        return backbone, bound, [tiny.alone(backbone, one, TEXTS) for one in bound]

    return make


@pytest.mark.parametrize("family", one_of_each())
def test_any_mixture_in_any_order(bound_adapters: Any, family: str) -> None:
    backbone, bound, alone = bound_adapters(family)
    pairs = st.tuples(st.integers(0, len(bound) - 1), st.integers(0, len(TEXTS) - 1))

    @_quick
    @given(st.lists(pairs, min_size=1, max_size=24))
    def check(chosen: list[tuple[int, int]]) -> None:
        outputs = tiny.run(backbone, [tiny.row(backbone, bound[a], TEXTS[t]) for a, t in chosen])
        assert tiny.difference(outputs, [alone[a][t] for a, t in chosen]) < CLOSE

    check()


@pytest.mark.parametrize("family", one_of_each())
def test_every_method_changes_the_answer(bound_adapters: Any, family: str) -> None:
    _, _, alone = bound_adapters(family)
    for one in alone[1:]:
        assert tiny.difference(one, alone[0]) > 1e-3


@pytest.mark.parametrize("family", one_of_each())
def test_loading_again_changes_nothing(bound_adapters: Any, family: str) -> None:
    backbone, _, alone = bound_adapters(family)
    for adapter, before in zip(every.adapters(backbone).values(), alone[1:], strict=True):
        assert tiny.difference(tiny.alone(backbone, adapter.bind(backbone), TEXTS), before) == 0
    assert tiny.difference(tiny.alone(backbone, BARE, TEXTS), alone[0]) == 0


@pytest.mark.parametrize("family", one_of_each())
def test_adapters_of_nothing_are_the_backbone(bound_adapters: Any, family: str) -> None:
    backbone, _, alone = bound_adapters(family)
    for name, adapter in every.nothing(backbone).items():
        assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), alone[0]) < CLOSE, name


@pytest.mark.parametrize("family", one_of_each())
def test_a_slot_is_no_larger_than_foretold(load_backbone: Any, family: str) -> None:
    backbone = load_backbone(family)
    for name, adapter in every.adapters(backbone).items():
        if name != "side":  # its own embeddings are made, and not in the file
            assert adapter.bind(backbone).nbytes <= adapter.slot_size(backbone), name
