"""Norms by the root of the mean square, in one launch, where torch's operations are eight."""

from __future__ import annotations

import torch
from torch import Tensor

from manyhats.kernels.cuda.launch import Launch, launch
from manyhats.kernels.cuda.programs.rows import rms_norm

_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
_MOST = 1 << 14  # numbers of a row, which one program holds


class CudaRmsNorm:
    """See `kernels.base.RmsNorm`."""

    def __init__(self, launch: Launch = launch) -> None:
        self._launch = launch

    def __call__(self, x: Tensor, gain: Tensor, epsilon: float) -> Tensor | None:
        """See `kernels.base.RmsNorm`."""
        width = x.shape[-1]
        fits = (
            x.dtype in _DTYPES
            and gain.dtype is x.dtype
            and gain.shape == (width,)
            and 0 < width <= _MOST
            and x.numel() > 0
            and x.is_contiguous()
            and gain.is_contiguous()
            and gain.device == x.device
        )
        if not fits or torch.is_grad_enabled():
            return None
        y = torch.empty_like(x)
        self._launch(
            rms_norm, (x.numel() // width,), x, gain, y, width, epsilon, BLOCK=1 << (width - 1).bit_length()
        )  # fmt: skip
        return y
