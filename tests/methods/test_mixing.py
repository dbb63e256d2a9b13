"""Any mixture of rows gives what each row gives alone; adapters that do nothing give the backbone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.plan import Plan, segments_of
from manyhats.methods.registry import METHODS
from torch import Tensor

from tests import tiny

TEXTS = tiny.texts([1, 4, 9, 20, 37, 0], seed=11)


def adapters_of_many_kinds(backbone: Backbone) -> list[BoundAdapter]:
    """Adapters of every method, head and flag."""

    def make(method: str, seed: int, **options: Any) -> BoundAdapter:
        return tiny.bound(backbone, tiny.adapter(backbone, method, seed, **options))

    return [
        BARE,
        make("lora", 1, kind="classify", labels=2),
        make("lora", 2, kind="tokens", labels=5, only="layer.0", rank=1),
        make("lora", 3),
        make("bottleneck", 4, kind="classify", labels=7),
        make("bottleneck", 5, original_ln_before=True, non_linearity="tanh"),
        make("bottleneck", 6, kind="tokens", is_parallel=True, scaling=4.0),
        make("prefix", 7, kind="classify"),
        make("prefix", 8, kind="regress", labels=1, length=1),
        make("prefix", 9, shift_positions=False, length=17),
        make("mask", 10, kind="classify", labels=4),
        make("mask", 11, only="layer.1", kept=0.5),
        _both(backbone, make),
    ]


def _both(backbone: Backbone, make: Any) -> BoundAdapter:
    """One adapter of two methods."""
    lora, prefix = make("lora", 12, kind="classify"), make("prefix", 13)
    return replace(lora, method="lora+prefix", components=lora.components + prefix.components)


@pytest.fixture(scope="module")
def known(load_backbone) -> Any:
    """For a family: its adapters, and every adapter's answer to every text alone."""

    @cache
    def answers(family: str) -> tuple[Backbone, list[BoundAdapter], dict[tuple[int, int], Tensor]]:
        backbone = load_backbone(family)
        adapters = adapters_of_many_kinds(backbone)
        expected = {
            (a, t): tiny.run(backbone, [tiny.row(backbone, adapter, text)])[0]
            for a, adapter in enumerate(adapters)
            for t, text in enumerate(TEXTS)
        }
        return backbone, adapters, expected

    return answers


_PICKS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, len(TEXTS) - 1)), min_size=1, max_size=24)


@settings(max_examples=60, deadline=None)
@given(family=st.sampled_from(["bert", "roberta", "electra-narrow", "distilbert"]), picks=_PICKS)
def test_any_mixture_gives_what_each_row_gives_alone(known, family: str, picks: list[tuple[int, int]]) -> None:
    backbone, adapters, expected = known(family)
    outputs = tiny.run(backbone, [tiny.row(backbone, adapters[a], TEXTS[t]) for a, t in picks])
    assert tiny.difference(outputs, [expected[pick] for pick in picks]) < tiny.CLOSE


@settings(max_examples=30, deadline=None)
@given(picks=_PICKS, data=st.data())
def test_the_order_of_rows_changes_nothing(known, picks: list[tuple[int, int]], data: st.DataObject) -> None:
    backbone, adapters, _ = known("bert")
    rows = [tiny.row(backbone, adapters[a], TEXTS[t]) for a, t in picks]
    order = data.draw(st.permutations(range(len(rows))))
    first = tiny.run(backbone, rows)
    second = tiny.run(backbone, [rows[i] for i in order])
    assert tiny.difference(second, [first[i] for i in order]) < tiny.CLOSE


def test_the_adapters_differ_from_each_other(known) -> None:
    """The comparison above would see a mix-up."""
    _, adapters, expected = known("bert")
    states = [expected[a, 3] for a, adapter in enumerate(adapters) if adapter.head is None]
    assert min(float((x - y).abs().max()) for i, x in enumerate(states) for y in states[:i]) > 0.05


def test_segments_in_any_order_of_methods(known) -> None:
    """Also with masks that do not stand last, and one adapter in two segments."""
    from manyhats.engine.forward import forward

    backbone, adapters, expected = known("bert")
    picks = [(10, 0), (0, 1), (11, 2), (1, 3), (9, 1), (10, 4), (9, 0), (4, 2), (0, 5)]
    rows = [tiny.row(backbone, adapters[a], TEXTS[t]) for a, t in picks]
    with torch.inference_mode():
        outputs = forward(backbone, rows)
    assert tiny.difference(outputs, [expected[pick] for pick in picks]) < tiny.CLOSE


def test_segments() -> None:
    a, b = (BoundAdapter(method="base", components=(), head=None) for _ in range(2))
    found = segments_of([a, a, b, a])
    assert [(s.adapter is a, s.sequences) for s in found] == [
        (True, slice(0, 2)),
        (False, slice(2, 3)),
        (True, slice(3, 4)),
    ]


def test_a_plan_gives_each_segment_its_own_prefix_rows(bert: Backbone) -> None:
    long, short = (tiny.bound(bert, tiny.adapter(bert, "prefix", i, length=i)) for i in (5, 2))
    kept = tiny.bound(bert, tiny.adapter(bert, "prefix", 3, length=3, shift_positions=False))
    plan = Plan(bert, segments_of([long, long, BARE, short, kept]))
    assert plan.prefixes == [(0, 5), (0, 5), (5, 5), (5, 7), (7, 10)]
    assert plan.position_offsets == [5, 5, 0, 2, 0]


# ---- adapters that do nothing


def _zeroed(part: Component, *leaves: str) -> Component:
    return Component(
        part.method,
        part.config,
        {s: {n: t * 0 if n in leaves else t for n, t in own.items()} for s, own in part.tensors.items()},
    )


@pytest.mark.parametrize(
    ("method", "options", "leaves"),
    [
        ("lora", {}, ("B",)),
        ("lora", {}, ("A",)),
        ("bottleneck", {}, ("up.weight", "up.bias")),
        ("bottleneck", {"is_parallel": True, "scaling": 4.0}, ("up.weight", "up.bias")),
        ("bottleneck", {"original_ln_before": True}, ("up.weight", "up.bias")),
        ("mask", {"kept": 1.1}, ()),
    ],
)
def test_an_adapter_that_does_nothing_equals_the_backbone(backbone, method: str, options: dict, leaves) -> None:
    adapter = tiny.adapter(backbone, method, 1, **options)
    adapter = replace(adapter, components=(_zeroed(adapter.components[0], *leaves),))
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), tiny.ask(backbone, None, TEXTS)) < 1e-5


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_binding_twice_changes_nothing(bert: Backbone, method: str) -> None:
    adapter = tiny.adapter(bert, method, 1, kind="classify")
    before = _copy(adapter)
    first, second = adapter.bind(bert), adapter.bind(bert)
    assert first.nbytes == second.nbytes > 0
    assert tiny.difference(tiny.ask(bert, first, TEXTS), tiny.ask(bert, second, TEXTS)) == 0
    for site, leaves in adapter.components[0].tensors.items():
        for name, tensor in leaves.items():
            assert torch.equal(tensor, before[site][name])


def _copy(adapter: Adapter) -> dict[str, dict[str, Tensor]]:
    return {s: {n: t.clone() for n, t in own.items()} for s, own in adapter.components[0].tensors.items()}


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_the_size_on_the_device_is_known_before(bert: Backbone, method: str) -> None:
    adapter = tiny.adapter(bert, method, 1, kind="classify")
    assert adapter.bind(bert).nbytes == adapter.slot_size(bert)


@pytest.mark.parametrize(("method", "rank"), [("lora", 3), ("bottleneck", 4), ("prefix", 5), ("mask", None)])
def test_rank(bert: Backbone, method: str, rank: int | None) -> None:
    adapter = tiny.adapter(bert, method, 1)
    assert adapter.rank == rank
    assert adapter.method == method
    assert METHODS[method].name == method
