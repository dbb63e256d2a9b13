"""Vocabularies that were resized for an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from manyhats.errors import AdapterMismatch

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def reject_resized(tensor: Tensor, own: Tensor, module: str, backbone: Backbone) -> None:
    """Raises AdapterMismatch for a vocabulary's table (rows, dim) of another length than the backbone's `own`."""
    if tensor.dim() == own.dim() == 2 and tensor.shape[1] == own.shape[1] and len(tensor) != len(own):
        raise AdapterMismatch(
            f"'{module}' has {len(tensor)} rows, but the backbone {backbone.name} has {len(own)}: an adapter with a "
            "vocabulary that was resized for it is not supported; merge it into its model and give that to the server "
            "as the backbone, or train it without new tokens",
            param=module,
        )
