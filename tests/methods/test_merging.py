"""Merging against PEFT's own functions."""

from __future__ import annotations

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import InvalidRequest
from manyhats.methods.merging import merge, merge_loras
from peft.utils.merge_utils import dare_linear, task_arithmetic, ties

from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:The density 1.0:UserWarning")

WEIGHTS = [0.7, -0.4, 1.3]


def tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(6, 10, generator=generator) for _ in WEIGHTS]


def merged(strategy: str, density: float = 1.0, sign: str = "total") -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return merge(tensors(), WEIGHTS, strategy, density, sign, generator)  # type: ignore[arg-type]


def test_linear_equals_peft() -> None:
    assert torch.allclose(merged("linear"), task_arithmetic(tensors(), torch.tensor(WEIGHTS)), atol=1e-6)


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("sign", ["total", "frequency"])
def test_ties_equals_peft(density: float, sign: str) -> None:
    expected = ties(tensors(), torch.tensor(WEIGHTS), density, sign)
    assert torch.allclose(merged("ties", density, sign), expected, atol=1e-6)


def test_dare_without_dropping_is_linear() -> None:
    assert torch.allclose(merged("dare_linear"), dare_linear(tensors(), torch.tensor(WEIGHTS), 1.0), atol=1e-6)
    assert torch.allclose(merged("dare_ties"), merged("ties"), atol=1e-6)


def test_dare_keeps_the_expected_value_and_repeats() -> None:
    ones = [torch.ones(200, 200)]
    generator = torch.Generator().manual_seed(5)
    kept = merge(ones, [1.0], "dare_linear", 0.25, "total", generator)
    assert abs(float(kept.mean()) - 1) < 0.05
    assert set(kept.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(merged("dare_ties", 0.5), merged("dare_ties", 0.5))


def test_what_cannot_be_merged(bert: Backbone) -> None:
    lora, other, mask = (tiny.part(bert, m, 1, **o) for m, o in (("lora", {}), ("lora", {"rank": 5}), ("mask", {})))
    with pytest.raises(InvalidRequest, match="different ranks"):
        merge_loras([lora, other], [1, 1], "linear", 1.0, "total", 0)
    with pytest.raises(InvalidRequest, match="'mask' cannot be merged"):
        merge_loras([lora, mask], [1, 1], "linear", 1.0, "total", 0)
