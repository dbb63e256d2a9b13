"""Whether `varlen_attn` does on a device what the attention in groups does there, before it takes its place."""

from __future__ import annotations

import logging
from itertools import product

import numpy as np
import torch

from manyhats.backbone.attention_layout import AttentionLayout
from manyhats.backbone.cache import KeyValueCache
from manyhats.backbone.chunks import SequenceChunk
from manyhats.backbone.staging import HostBuffers, StagingBuffer
from manyhats.backbone.varlen_attention import VarlenAttention, missing, torch_function
from manyhats.backbone.varlen_layout import VarlenLayout
from manyhats.messages import first_line

logger = logging.getLogger(__name__)

_CLOSE = {torch.bfloat16: 3e-2, torch.float16: 5e-3}  # of a difference, to the largest value; else float32's
_CLOSE_FLOAT32 = 1e-4
_LENGTHS = ((5, 0), (1, 0), (140, 3), (33, 4))  # new tokens, and rows before them: of a prefix, or earlier ones
_WINDOWS = (None, 6)


def choose_varlen_attention(
    device: torch.device, dtype: torch.dtype, heads: int, kv_shape: tuple[int, int], *, causal: bool
) -> VarlenAttention | None:
    """torch's, where it can be used and is right; else None, and the log says why on a CUDA device."""
    reason = missing(device, dtype, heads, kv_shape)
    if reason is not None:
        if device.type == "cuda":
            logger.info("attention without pads is not used, which costs time, not answers: %s", reason)
        return None
    function = torch_function()
    assert function is not None, "`missing` looked for it"
    attention = VarlenAttention(function)
    reason = fault(attention, device, dtype, heads, kv_shape, causal=causal)
    if reason is not None:
        logger.warning("attention without pads is not used, which costs time, not answers: %s", reason)
        return None
    return attention


def fault(
    attention: VarlenAttention,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    kv_shape: tuple[int, int],
    *,
    causal: bool,
) -> str | None:
    """What is wrong with it; None where it agrees with the attention in groups: for sequences with prefixes and
    without, cached ones of decoders, and windows."""
    for window, cached in product(_WINDOWS, (False, True) if causal else (False,)):
        try:
            error = _difference(attention, device, dtype, heads, kv_shape, causal, window, cached)
        except Exception as failure:  # whatever torch, the driver or the device raises
            return f"it fails: {type(failure).__name__}: {first_line(failure)}"
        if not error <= _CLOSE.get(dtype, _CLOSE_FLOAT32):  # not a number too
            kind = "cached" if cached else "whole"
            return f"it differs by {error:.2g} for {kind} sequences" + (f" and a window of {window}" if window else "")
    return None


@torch.inference_mode()
def _difference(
    attention: VarlenAttention,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    kv_shape: tuple[int, int],
    causal: bool,
    window: int | None,
    cached: bool,
) -> float:
    """The largest difference of a pass over a few sequences, to the largest value."""
    generator = torch.Generator().manual_seed(0)
    tokens, more = (sum(sizes) for sizes in zip(*_LENGTHS, strict=True))
    kv_heads, dim = kv_shape

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    cache = KeyValueCache(tokens + more, 1, kv_shape, device, dtype) if cached else None
    chunks, row = [], 0
    for new, earlier in _LENGTHS:
        if cached:
            rows = np.arange(row, row + new + earlier)[::-1].copy()
            chunks.append(SequenceChunk([0] * new, earlier, cache_rows=rows))
            row += len(rows)
        else:
            chunks.append(SequenceChunk([0] * new, batch_prefix=(row, row + earlier)))
            row += earlier
    q = made(tokens, heads, dim)
    k, v = made(2, tokens + (0 if cached else more), kv_heads, dim).unbind(0)
    earlier_rows = made(*cache.entries[0].shape) if cache is not None else None
    outs = []
    for way in (AttentionLayout, VarlenLayout):
        staging = StagingBuffer(HostBuffers(device))
        if cache is not None and earlier_rows is not None:
            cache.entries[0].copy_(earlier_rows)
        layout = (
            VarlenLayout(chunks, staging, attention, causal=causal, cache=cache)
            if way is VarlenLayout
            else AttentionLayout(chunks, staging, causal=causal, device=device, dtype=dtype, cache=cache)
        )
        staging.commit()
        outs.append(layout.attend(0, q, k, v, None, window).double().cpu())
    return float((outs[1] - outs[0]).abs().max() / outs[0].abs().max())
