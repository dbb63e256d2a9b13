"""Reads one adapter of AdapterHub, and its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch
from manyhats.formats.adapterhub.heads import read_head, without_head
from manyhats.formats.adapterhub.names import HEAD_CONFIG, WEIGHTS
from manyhats.formats.wrappers import open_tensors
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.adapterhub import AdapterHubFile
from manyhats.methods.libraries.fields import text_or_none
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_ARCHITECTURES = [method.adapterhub for method in METHODS.values() if method.adapterhub is not None]
_PRESETS: dict[str, Mapping[str, Any]] = {
    name: config for architecture in _ARCHITECTURES for name, config in architecture.presets.items()
}
_UNION_SIZE = 8  # configs


@dataclass(frozen=True, slots=True)
class Weights:
    """One adapter's components, without a head."""

    name: str
    components: tuple[Component[Any], ...]
    matched: int
    model_class: str
    base: str | None
    warnings: tuple[str, ...] = ()


def is_adapter(config: Mapping[str, Any]) -> bool:
    """Whether an `adapter_config.json` is AdapterHub's."""
    return "config" in config and ("model_type" in config or "model_class" in config)


def read(folder: Path, config: dict[str, Any], backbone: Backbone) -> Adapter:
    """Reads an adapter and its head. Raises InvalidRequest, AdapterMismatch or UnsupportedFormat with the reason."""
    weights = read_weights(folder, config, backbone)
    head = read_head(folder, backbone) if (folder / HEAD_CONFIG).exists() else without_head([weights.model_class])
    return Adapter(
        components=weights.components,
        head=head.head,
        kind=head.kind,
        matched_tensors=weights.matched + head.matched,
        base=weights.base,
        settings=head.settings,
        warnings=(*weights.warnings, *head.warnings),
    )


def read_weights(folder: Path, config: dict[str, Any], backbone: Backbone) -> Weights:
    """Reads `adapter.safetensors` by its config."""
    check_model_type(config, backbone)
    file = AdapterHubFile(str(config.get("name")), text_or_none(config.get("version")))
    unclaimed = open_tensors(folder / WEIGHTS)
    components = _components(unclaimed, config.get("config"), file, backbone)
    unclaimed.check_all_claimed()
    return Weights(
        name=file.name,
        components=tuple(components),
        matched=unclaimed.claimed,
        model_class=str(config.get("model_class", "")),
        base=text_or_none(config.get("model_name")),
        warnings=unclaimed.warnings,
    )


def check_model_type(config: Mapping[str, Any], backbone: Backbone) -> None:
    """Raises AdapterMismatch for an adapter of another architecture."""
    model_type = config.get("model_type")
    if model_type != backbone.config.model_type:
        raise AdapterMismatch(
            f"the adapter is for a model of type {short_repr(model_type)}, but the backbone {backbone.name} is a "
            f"'{backbone.config.model_type}'",
            param="model_type",
        )


def _components(
    unclaimed: UnclaimedTensors, inner: Any, file: AdapterHubFile, backbone: Backbone
) -> list[Component[Any]]:
    """The components of a config, which may be a short name, in the order in which they act."""
    if isinstance(inner, str):
        if inner not in _PRESETS:
            raise AdapterMismatch(
                f"AdapterHub's {short_repr(inner)} is not supported by its name alone; these are: "
                + ", ".join(_PRESETS),
                param="config",
            )
        inner = dict(_PRESETS[inner])
    if not isinstance(inner, dict):
        raise AdapterMismatch(f"config must be an object, not {short_repr(inner)}", param="config")
    if inner.get("architecture") == "union":
        configs = inner.get("configs")
        if not isinstance(configs, list) or not configs or len(configs) > _UNION_SIZE:
            raise AdapterMismatch(
                f"configs must be a list of at most {_UNION_SIZE}, not {short_repr(configs)}", param="configs"
            )
        return [component for config in configs for component in _components(unclaimed, config, file, backbone)]
    for architecture in _ARCHITECTURES:
        if architecture.matches(inner):
            return architecture.read(unclaimed, inner, file, backbone)
    known = ", ".join(sorted({architecture.description for architecture in _ARCHITECTURES}))
    raise AdapterMismatch(
        f"AdapterHub's {short_repr(inner.get('architecture'))} is not supported; these are: {known} and unions of them",
        param="architecture",
    )
