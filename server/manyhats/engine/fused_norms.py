"""Norms of decoders in one launch each, where the backbone's kernels have them: a block of transformers' Llama has
two, of eight launches each, which for a step of generation is a third of all."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from manyhats.backbone import Backbone
from manyhats.kernels.base import RmsNorm
from manyhats.methods.slots import slot_tables

logger = logging.getLogger(__name__)

_CLOSE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # of a difference, to the largest value
_ROWS = 5  # that are compared


class FusedNorm:
    """In the place of a norm's forward. `plain`: it, for what the kernel does not compute."""

    def __init__(self, norm: RmsNorm, module: nn.Module, plain: Callable[..., Tensor]) -> None:
        self._norm, self._module, self.plain = norm, module, plain
        self._epsilon = float(module.variance_epsilon)  # type: ignore[arg-type]

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of x (..., width)."""
        gain: Tensor = self._module.weight  # type: ignore[assignment]
        found = self._norm(x, gain, self._epsilon)
        return self.plain(x) if found is None else found


@torch.inference_mode()
def use_fused_norms(backbone: Backbone) -> int:
    """Returns how many norms of a backbone are computed so: those whose outputs are found to be the same."""
    norm = slot_tables(backbone).kernels.rms_norm
    count = 0
    for site in backbone.norm.values():
        if isinstance(site.plain, FusedNorm):  # of other kernels
            site.plain = site.plain.plain
        names = {name for name, _ in site.module.named_parameters()}
        if norm is None or names != {"weight"} or not hasattr(site.module, "variance_epsilon"):
            continue
        fused = FusedNorm(norm, site.module, site.plain)
        if _agrees(fused, site.module.weight, backbone):
            site.plain = fused
            count += 1
    if norm is not None:
        logger.info("%d of %d norms are one launch each", count, len(backbone.norm))
    return count


def _agrees(fused: FusedNorm, gain: Tensor, backbone: Backbone) -> bool:
    """Whether it computes what the module itself does, for large and small numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, len(gain), generator=generator) * torch.logspace(-2, 2, _ROWS)[:, None]
    x = x.to(backbone.device, backbone.dtype)
    close = _CLOSE.get(backbone.dtype)
    if close is None:
        return False
    try:
        found, wanted = fused(x).float(), fused.plain(x).float()
    except Exception as error:  # whatever the compiler, the driver or the device raises
        logger.warning("norms are left to torch: %s: %s", type(error).__name__, error)
        return False
    return bool((found - wanted).abs().max() <= close * wanted.abs().max())
