"""Sums of Kronecker products, of which a compacter's layers are made (Karimi Mahabadi et al. 2021, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_VALUES = 1 << 26  # of one product; a small file can stand for a very large matrix


def kronecker_sum(rule: Tensor, pieces: Tensor) -> Tensor:
    """sum_i rule_i kron pieces_i: (n, a, b) and (n, c, d) to (a c, b d)."""
    a, c = rule.shape[1], pieces.shape[1]
    return torch.einsum("iab,icd->acbd", rule, pieces).reshape(a * c, -1)
