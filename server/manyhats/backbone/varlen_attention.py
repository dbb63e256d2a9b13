"""torch's attention over sequences of any lengths side by side, `varlen_attn`, and where it can be used.

One launch in place of one for each group of sequences of similar length, without pads and masks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_DTYPES = frozenset({torch.float16, torch.bfloat16})
_MIN_CAPABILITY = (8, 0)
_HEAD_STEP, _MAX_HEAD = 8, 256  # sizes of a head
_NEEDED = ("scale", "window_size", "enable_gqa")  # arguments that older versions of torch lack
_UNLIMITED = -1  # of a window


class VarlenAttention:
    """Attention over packed sequences. `function`: torch's `varlen_attn`, or one like it in tests."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        bounds: tuple[Tensor, Tensor],
        longest: tuple[int, int],
        scaling: float | None,
        window: int | None,
        *,
        causal: bool,
    ) -> Tensor:
        """q (queries, heads, dim) to the same; keys and values (keys, kv_heads, dim).

        `bounds`: the first query and key of each sequence, and their numbers, (S + 1,) int32 each; a sequence's last
        query is its last key's. `longest`: the most queries and keys of one. `causal`: a query attends to no later
        key. `window`: only to keys fewer than so many positions away; None: to all.
        """
        before = _UNLIMITED if window is None else window - 1
        out: Tensor = self._function(
            q,
            keys,
            values,
            *bounds,
            *longest,
            scale=scaling,
            window_size=(before, 0 if causal else before),
            enable_gqa=q.shape[1] != keys.shape[1],
        )
        return out


def missing(device: torch.device, dtype: torch.dtype, heads: int, kv_shape: tuple[int, int]) -> str | None:
    """Why `varlen_attn` cannot be used for a model with so many query heads, and key heads of such a number and size;
    None where it can, if it is right (see `varlen_check`)."""
    kv_heads, dim = kv_shape
    if device.type != "cuda" or not torch.cuda.is_available():
        return "it is for CUDA devices"
    if dtype not in _DTYPES:
        return f"it does not compute in {dtype}"
    if dim % _HEAD_STEP or dim > _MAX_HEAD:
        return f"its heads are multiples of {_HEAD_STEP} up to {_MAX_HEAD}, and the model's are of {dim}"
    if heads % kv_heads:
        return f"{heads} query heads do not share {kv_heads} key heads evenly"
    found = torch_function()
    if found is None or not all(name in inspect.signature(found).parameters for name in _NEEDED):
        return f"torch {torch.__version__} has none with the arguments {', '.join(_NEEDED)}"
    if torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return "the device is too old"
    return None


def torch_function() -> Callable[..., Any] | None:
    """torch's `varlen_attn`; None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # registers operators, so only where it is used
    except ImportError:
        return None
    return varlen_attn
