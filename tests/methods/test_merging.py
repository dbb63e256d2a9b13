"""Merging against what PEFT's own functions gave, as it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import InvalidRequest
from manyhats.methods.merging import merge, merge_components

from tests import tiny
from tests.references.peft import References
from tests.references.peft_recipes import WEIGHTS


@pytest.fixture
def stored(peft_references: References) -> Callable[[str], tuple[torch.Tensor, ...]]:
    """The outputs of a case; those of "given" are what was merged."""
    return lambda name: peft_references.answer("merging", "merging", name).outputs


@pytest.fixture
def merged(stored: Any) -> Callable[..., torch.Tensor]:
    def make(strategy: Any, density: float = 1.0, sign: Any = "total") -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return merge(list(stored("given")), WEIGHTS, strategy, density, sign, generator)

    return make


def test_linear_equals_peft(stored: Any, merged: Any) -> None:
    assert torch.allclose(merged("linear"), stored("linear")[0], atol=1e-6)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_ties_equals_peft(stored: Any, merged: Any, density: float, sign: str) -> None:
    assert torch.allclose(merged("ties", density, sign), stored(f"ties-{density}-{sign}")[0], atol=1e-6)


def test_dare_without_dropping_is_linear(stored: Any, merged: Any) -> None:
    assert torch.allclose(merged("dare_linear"), stored("dare_linear-1.0")[0], atol=1e-6)
    assert torch.allclose(merged("dare_ties"), merged("ties"), atol=1e-6)


def test_dare_keeps_the_expected_value_and_repeats(merged: Any) -> None:
    ones = [torch.ones(200, 200)]
    generator = torch.Generator().manual_seed(5)
    kept = merge(ones, [1.0], "dare_linear", 0.25, "total", generator)
    assert abs(float(kept.mean()) - 1) < 0.05
    assert set(kept.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(merged("dare_ties", 0.5), merged("dare_ties", 0.5))


def test_what_cannot_be_merged(bert: Backbone) -> None:
    lora, other, mask = (
        tiny.component(bert, m, 1, **o) for m, o in (("lora", {}), ("lora", {"rank": 5}), ("mask", {}))
    )
    with pytest.raises(InvalidRequest, match="different ranks"):
        merge_components([lora, other], [1, 1], "linear", 1.0, "total", 0)
    with pytest.raises(InvalidRequest, match="'mask' cannot be merged"):
        merge_components([lora, mask], [1, 1], "linear", 1.0, "total", 0)
