"""The packed attention against plain attention over one sequence after the other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import SequenceChunk
from manyhats.backbone.attention_layout import AttentionLayout
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from torch import Tensor

CPU = torch.device("cpu")


def whole_layout(
    lengths: list[int], prefixes: list[tuple[int, int]], *, causal: bool, dtype: torch.dtype = torch.float32
) -> AttentionLayout:
    """Of whole sequences alone."""
    staging = StagingBuffer(HostBuffers(CPU))
    chunks = [SequenceChunk([0] * n, batch_prefix=prefix) for n, prefix in zip(lengths, prefixes, strict=True)]
    layout = AttentionLayout(chunks, staging, causal=causal, device=CPU, dtype=dtype)
    staging.commit()
    return layout


def plain(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], prefixes: list[tuple[int, int]], causal: bool, scale: float
) -> Tensor:
    """Attention as the formula says, sequence by sequence and head by head."""
    total, group = sum(lengths), q.shape[1] // k.shape[1]
    outputs, start = [], 0
    for length, (low, high) in zip(lengths, prefixes, strict=True):
        rows = [*range(total + low, total + high), *range(start, start + length)]
        out = torch.empty(length, q.shape[1], q.shape[2])
        for head in range(q.shape[1]):
            keys, values = k[rows, head // group], v[rows, head // group]
            for i in range(length):
                seen = len(rows) if not causal else high - low + i + 1
                weights = torch.softmax(keys[:seen] @ q[start + i, head] * scale, 0)
                out[i, head] = weights @ values[:seen]
        outputs.append(out)
        start += length
    return torch.cat(outputs)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]], int]:
    """Lengths, each sequence's prefix rows, and how many prefix rows there are. Neighbours may share a prefix."""
    lengths = draw(st.lists(st.integers(1, 24), min_size=1, max_size=7))
    prefixes, rows = [], 0
    for _ in lengths:
        if prefixes and draw(st.booleans()):
            prefixes.append(prefixes[-1])
        else:
            size = draw(st.integers(0, 6))
            prefixes.append((rows, rows + size))
            rows += size
    return lengths, prefixes, rows


@settings(max_examples=60, deadline=None)
@given(
    batch=batches(),
    causal=st.booleans(),
    heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]),
    scaled=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_plain_attention(batch, causal: bool, heads: tuple[int, int], scaled: bool, seed: int) -> None:
    lengths, prefixes, rows = batch
    generator = torch.Generator().manual_seed(seed)
    total, dim = sum(lengths), 4
    q = torch.randn(total, heads[0], dim, generator=generator)
    k, v = (torch.randn(total + rows, heads[1], dim, generator=generator) for _ in range(2))
    scale = 0.3 if scaled else None
    layout = whole_layout(lengths, prefixes, causal=causal)
    expected = plain(q, k, v, lengths, prefixes, causal, scale or 1 / math.sqrt(dim))
    torch.testing.assert_close(layout.attend(0, q, k, v, scale, None), expected, atol=1e-5, rtol=1e-5)


def test_equal_lengths_need_one_call_without_a_mask() -> None:
    layout = whole_layout([8] * 5, [(0, 0)] * 5, causal=False)
    assert [(group.size, group.padded) for group in layout.groups] == [(5, False)]


def test_pads_stay_few() -> None:
    """No sequence is padded to a length far from its own."""
    lengths = [1, 2, 3, 8, 9, 30, 31, 33, 64, 200, 512]
    layout = whole_layout(lengths, [(0, 0)] * len(lengths), causal=False)
    assert sum(group.size * group.queries for group in layout.groups) < 1.3 * sum(lengths)
    assert sum(group.size for group in layout.groups) == len(lengths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mask_has_the_type_of_the_states(dtype: torch.dtype) -> None:
    layout = whole_layout([3, 5], [(0, 0), (0, 2)], causal=True, dtype=dtype)
    q = torch.randn(8, 2, 4, dtype=dtype)
    kv = torch.randn(10, 2, 4, dtype=dtype)
    out = layout.attend(0, q, kv, kv, None, None)
    assert out.dtype == dtype
    assert out.shape == q.shape
    assert bool(torch.isfinite(out).all())
