"""Where the keys of AdapterHub's bottleneck adapters put them: the modules after attention and after feed-forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhats.errors import AdapterMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhats.backbone import Backbone


def sublayer_modules(backbone: Backbone) -> tuple[str, str] | None:
    """The modules after attention and after feed-forward, relative to the bare model; `{i}` is the layer. None where
    AdapterHub has none for the backbone's architecture."""
    return backbone.family.sublayers


def residual_sites(backbone: Backbone) -> dict[str, str]:
    """Our residual sites by the modules that AdapterHub's keys put an adapter into. Raises AdapterMismatch for an
    architecture that AdapterHub does not have."""
    modules = sublayer_modules(backbone)
    if modules is None:
        raise AdapterMismatch(
            f"AdapterHub's adapters for {backbone.config.model_type} models are not supported", param="model_type"
        )
    return {
        path.format(i=layer): f"layers.{layer}.{name}"
        for layer in range(backbone.layers)
        for path, name in zip(modules, ("attention", "ffn"), strict=True)
    }


def residual_site(module: str, key: str, backbone: Backbone, sites: Mapping[str, str]) -> str:
    """The residual site of a key's module. `sites`: as `residual_sites` gives them. Raises AdapterMismatch where the
    backbone has none."""
    site = sites.get(backbone.bare_name(module))
    if site is None:
        raise AdapterMismatch(
            f"the adapter has weights at '{module}', but the backbone {backbone.name} has no such place", param=key
        )
    return site
