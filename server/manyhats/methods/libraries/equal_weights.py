"""Compares a file's weight with the backbone's."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 4096  # compared at once


def equal_weights(stored: Tensor, own: Tensor) -> bool:
    """Whether two tensors are equal within the precision of the coarser of their types.

    Between float16 and bfloat16, each of which drops digits of the other, a step of either counts as equal.
    """
    if stored.shape != own.shape or not (stored.is_floating_point() and own.is_floating_point()):
        return False
    types = {stored.dtype, own.dtype}
    coarser = min(types, key=lambda dtype: (torch.finfo(dtype).bits, -torch.finfo(dtype).eps))
    mixed = types == {torch.float16, torch.bfloat16}
    own = own.detach()
    for start in range(0, len(stored) if stored.dim() else 1, _ROWS):  # a few rows at a time: an embedding is large
        left, right = (t[start : start + _ROWS] if t.dim() else t for t in (stored, own))
        right = right.cpu()
        if mixed:
            if not torch.allclose(left.float(), right.float(), rtol=2**-8, atol=2**-24):
                return False
        elif not torch.equal(left.to(coarser), right.to(coarser)):
            return False
    return True
