"""Passes with rows beside their own: what a product of a CPU is compiled for, and that nobody's answer changes."""

from __future__ import annotations

from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.backbone.sites import LinearSite
from manyhats.methods.bound_adapter import BARE

from tests import engines, tiny
from tests.engine.running import adapters, close, outputs
from tests.engines import one_pass

TEXTS = tiny.texts([3, 9, 6, 1, 4])


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of every product of a layer's rows, in turn."""
    seen: list[int] = []
    product = LinearSite.product

    def watched(site: LinearSite, x: Any) -> Any:
        seen.append(len(x))
        return product(site, x)

    monkeypatch.setattr(LinearSite, "product", watched)
    return seen


@pytest.fixture
def filled(load_backbone: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A backbone of the family that the test names, whose products are compiled."""
    backbone: Backbone = load_backbone(request.param)
    monkeypatch.setattr(backbone, "compiles_products", True)
    return backbone


@pytest.mark.parametrize("filled", ["bert", "modernbert", "llama"], indirect=True)
def test_answers_are_those_of_each_alone(filled: Backbone, rows: list[int]) -> None:
    bound = [adapter for adapter in adapters(filled) if adapter.method != "mask"] + [BARE]
    expected = [tiny.alone(filled, adapter, TEXTS, "mean") for adapter in bound]
    own = len(bound) * sum(len(tiny.row(filled, BARE, text).ids) for text in TEXTS)
    requests = [one_pass(filled, adapter, TEXTS, f"t{i}") for i, adapter in enumerate(bound)]
    rows.clear()
    engines.run(engines.engine(filled), requests)
    (passed,) = {count for count in rows if count > len(bound) * len(TEXTS)}  # others are of heads
    assert own < passed < 1.25 * own
    assert passed % 16 == 0
    for each, right in zip(requests, expected, strict=True):
        assert close(outputs(each), right)


@pytest.mark.parametrize("filled", ["bert"], indirect=True)
def test_weights_of_their_own_leave_a_pass_as_it_is(filled: Backbone, rows: list[int]) -> None:
    """The backbone's own layers then compute the rows of the others alone."""
    mask = next(adapter for adapter in adapters(filled) if adapter.method == "mask")
    expected = [tiny.alone(filled, adapter, TEXTS, "mean") for adapter in (BARE, mask)]
    own = sum(len(tiny.row(filled, BARE, text).ids) for text in TEXTS)
    requests = [one_pass(filled, adapter, TEXTS, f"t{i}") for i, adapter in enumerate((BARE, mask))]
    rows.clear()
    engines.run(engines.engine(filled), requests)
    assert set(rows) <= {own, 2 * own}
    for each, right in zip(requests, expected, strict=True):
        assert close(outputs(each), right)


@pytest.mark.parametrize("filled", ["llama"], indirect=True)
def test_texts_are_the_same_and_steps_have_no_more_rows(
    filled: Backbone, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and whole sequences are filled, a step of one token each is not."""
    lora, prefix = (tiny.adapter(filled, name, 1, kind="generate").bind(filled) for name in ("lora", "prefix"))

    def generations() -> list[Any]:
        return [
            engines.generation(filled, "lora", lora, [5, 6, 7], new=8, top=2),
            engines.generation(filled, "prefix", prefix, [*range(10, 50)], new=4),
            engines.generation(filled, "base", BARE, [9], new=3),
        ]

    monkeypatch.setattr(filled, "compiles_products", False)
    expected = generations()
    engines.run(engines.engine(filled), expected)
    monkeypatch.setattr(filled, "compiles_products", True)
    given = generations()
    embedded = one_pass(filled, prefix, TEXTS, "embed")
    rows.clear()
    engines.run(engines.engine(filled), [*given, embedded])
    seen = set(rows)
    assert [engines.tokens(request) for request in given] == [engines.tokens(request) for request in expected]
    scores = [[sequence.prompt_logprobs for sequence in request.sequences] for request in (given[0], expected[0])]
    assert all(one is not None and one.complete for own in scores for one in own)
    assert close(outputs(embedded), tiny.alone(filled, prefix, TEXTS, "mean"))
    assert seen >= {1, 2, 3}  # of steps
    assert {count % 8 for count in seen - {1, 2, 3}} == {0}
