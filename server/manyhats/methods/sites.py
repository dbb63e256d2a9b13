"""Finds the sites that an adapter's tensors name. Raises AdapterMismatch where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhats.backbone.names import UnknownSite
from manyhats.errors import AdapterMismatch

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.backbone.sites import LinearSite, ModuleSite


def linear_site(backbone: Backbone, module: str) -> LinearSite:
    """The linear layer that an adapter has weights for. Raises AdapterMismatch where the backbone has none."""
    try:
        return backbone.site_of(module)
    except UnknownSite as error:
        raise _mismatch(error, backbone) from None


def parameter_site(backbone: Backbone, module: str) -> ModuleSite:
    """The module with parameters that an adapter has weights for. Raises AdapterMismatch where there is none."""
    try:
        return backbone.parameter_site(module)
    except UnknownSite as error:
        raise _mismatch(error, backbone) from None


def _mismatch(error: UnknownSite, backbone: Backbone) -> AdapterMismatch:
    model_type = backbone.config.model_type
    if error.shared_table:
        return AdapterMismatch(
            f"the adapter changes '{error.module}', which {model_type} models read once for all texts of a batch; one "
            "task cannot have its own",
            param=error.module,
        )
    return AdapterMismatch(
        f"the adapter has weights for '{error.module}', but the backbone {backbone.name} ({model_type}) has no "
        f"{error.wanted} of that name",
        param=error.module,
    )
