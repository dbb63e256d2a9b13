"""Small low-rank pairs of one shape, which are scaled and converted together."""

from __future__ import annotations

import pytest
import torch
from manyhats.methods.lora.operations import small_pairs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_they_equal_those_made_one_by_one(dtype: torch.dtype, stored: torch.dtype) -> None:
    shapes = {"a": (6, 4), "b": (6, 4), "c": (4, 10)}
    tensors = {
        site: {"A": torch.randn(2, width).to(stored), "B": torch.randn(out, 2).to(stored)}
        for site, (out, width) in shapes.items()
    }
    scales = {"a": 2.0, "b": 0.3, "c": 1 / 3}
    pairs = small_pairs(tensors, scales, dtype)
    assert pairs.keys() == tensors.keys()
    for site, pair in pairs.items():
        assert torch.equal(pair.down, tensors[site]["A"].float().to(dtype))
        assert torch.equal(pair.up, (tensors[site]["B"].float().T * scales[site]).to(dtype))
        assert pair.down.is_contiguous()
        assert pair.up.is_contiguous()


def test_what_is_large_or_has_more_than_a_pair_is_left_out() -> None:
    pair = {"A": torch.zeros(2, 8), "B": torch.zeros(8, 2)}
    tensors = {
        "large": {"A": torch.zeros(64, 1024), "B": torch.zeros(8, 64)},
        "dora": pair | {"magnitude": torch.zeros(8)},
        "small": pair,
    }
    assert small_pairs(tensors, dict.fromkeys(tensors, 1.0), torch.float32).keys() == {"small"}
