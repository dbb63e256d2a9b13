"""Compacters: bottleneck adapters whose matrices are sums of Kronecker products (Karimi Mahabadi et al. 2021, 3.2).

W^T = sum_i rule_i kron (left_i right_i)        i = 1 ... n, the paper's and AdapterHub's `phm_dim`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.methods.base import expect_leaves, expect_shape
from manyhats.methods.component import StateDict

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

FACTORS = ("rule", "down.left", "down.right", "up.left", "up.right")
MAX_VALUES = 1 << 26  # of one product; a small file can describe a very large matrix


def kronecker_sum(rule: Tensor, factors: Tensor) -> Tensor:
    """sum_i rule_i kron factors_i: (n, a, b) and (n, c, d) to (a c, b d)."""
    a, c = rule.shape[1], factors.shape[1]
    return torch.einsum("iab,icd->acbd", rule, factors).reshape(a * c, -1)


def materialise(leaves: StateDict) -> StateDict:
    """A compacter's layers multiplied out into `down.weight` and `up.weight`; other tensors unchanged."""
    if "rule" not in leaves:
        return leaves
    found = {name: tensor for name, tensor in leaves.items() if name not in FACTORS}
    for layer in ("down", "up"):
        factors = leaves[f"{layer}.left"] @ leaves[f"{layer}.right"]
        found[f"{layer}.weight"] = kronecker_sum(leaves["rule"], factors).T
    return found


def factor_shapes(hidden: int, width: int, phm_dim: int) -> dict[str, tuple[int, ...]]:
    """The shapes of both layers' factors, by tensor name."""
    return {
        "down.left": (phm_dim, hidden // phm_dim, 1),
        "down.right": (phm_dim, 1, width // phm_dim),
        "up.left": (phm_dim, width // phm_dim, 1),
        "up.right": (phm_dim, 1, hidden // phm_dim),
    }


def check_factors(leaves: StateDict, site: str, backbone: Backbone) -> None:
    """Raises AdapterMismatch where a compacter's factors do not fit. Called before they are multiplied: a small file
    can describe very large matrices."""
    if "rule" not in leaves:
        return
    expect_leaves(leaves, (*FACTORS, "down.bias"), site)
    phm_dim = leaves["rule"].shape[0] if leaves["rule"].dim() else 0
    width, hidden = leaves["down.bias"].numel(), backbone.hidden
    if not phm_dim or hidden % phm_dim or width % phm_dim or hidden * width > MAX_VALUES:
        raise AdapterMismatch(
            f"the compacter at {site} has {phm_dim} products for matrices of {width} by {hidden}; it must divide both, "
            f"and they may have {MAX_VALUES} values",
            param=f"{site}.rule",
        )
    shapes = factor_shapes(hidden, width, phm_dim) | {"rule": (phm_dim,) * 3}
    for name in FACTORS:
        expect_shape(leaves[name], shapes[name], f"{site}.{name}", backbone)
