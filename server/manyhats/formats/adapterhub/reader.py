"""Reads one adapter of AdapterHub, and the head beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch
from manyhats.formats.adapterhub.bottleneck import bottleneck_parts
from manyhats.formats.adapterhub.heads import read_head, without_head
from manyhats.formats.adapterhub.lowrank import lora_parts
from manyhats.formats.adapterhub.names import HEAD_CONFIG, WEIGHTS
from manyhats.formats.adapterhub.prompts import prefix_parts, prompt_parts
from manyhats.formats.wrappers import open_tensors
from manyhats.messages import short_repr
from manyhats.methods.component import Component
from manyhats.methods.libraries.fields import text_or_none
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# What the library's short names stand for, in files that hold no more than the name.
_BOTTLENECK = {"mh_adapter": False, "output_adapter": True, "non_linearity": "relu", "original_ln_before": True}
_PRESETS: dict[str, dict[str, Any]] = {
    "pfeiffer": _BOTTLENECK,
    "houlsby": {
        "mh_adapter": True,
        "output_adapter": True,
        "non_linearity": "swish",
        "original_ln_before": False,
    },
    "parallel": {
        "mh_adapter": False,
        "output_adapter": True,
        "non_linearity": "relu",
        "original_ln_before": False,
        "is_parallel": True,
        "scaling": 4.0,
    },
}
_PRESETS |= {
    "seq_bn": _PRESETS["pfeiffer"],
    "double_seq_bn": _PRESETS["houlsby"],
    "par_bn": _PRESETS["parallel"],
    "pfeiffer+inv": _BOTTLENECK | {"inv_adapter": "nice"},
    "seq_bn_inv": _BOTTLENECK | {"inv_adapter": "nice"},
    "houlsby+inv": _PRESETS["houlsby"] | {"inv_adapter": "nice"},
    "double_seq_bn_inv": _PRESETS["houlsby"] | {"inv_adapter": "nice"},
}


@dataclass(frozen=True, slots=True)
class Weights:
    """One adapter's parts, without a head."""

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
    name = str(config.get("name"))
    version = config.get("version")
    unclaimed = open_tensors(folder / WEIGHTS)
    parts = _parts(unclaimed, config.get("config"), name, text_or_none(version), backbone)
    unclaimed.check_all_claimed()
    return Weights(
        name=name,
        components=tuple(parts),
        matched=unclaimed.claimed,
        model_class=str(config.get("model_class", "")),
        base=text_or_none(config.get("model_name")),
        warnings=unclaimed.warnings,
    )


def check_model_type(config: Mapping[str, Any], backbone: Backbone) -> None:
    """Raises AdapterMismatch for a file that was made with another architecture."""
    model_type = config.get("model_type")
    if model_type != backbone.config.model_type:
        raise AdapterMismatch(
            f"the adapter is for a model of type {short_repr(model_type)}, but the backbone {backbone.name} is a "
            f"'{backbone.config.model_type}'",
            param="model_type",
        )


def _parts(
    unclaimed: UnclaimedTensors, inner: Any, name: str, version: str | None, backbone: Backbone
) -> list[Component[Any]]:
    if isinstance(inner, str):
        preset = _PRESETS.get(inner)
        if preset is None:
            raise AdapterMismatch(
                f"AdapterHub's {short_repr(inner)} is not supported by its name alone; these are: "
                + ", ".join(_PRESETS),
                param="config",
            )
        inner = preset
    if not isinstance(inner, dict):
        raise AdapterMismatch(f"config must be an object, not {short_repr(inner)}", param="config")
    architecture = inner.get("architecture")
    match architecture:
        case "union":
            members = inner.get("configs")
            if not isinstance(members, list) or not members or len(members) > 8:
                raise AdapterMismatch(
                    f"configs must be a list of at most 8, not {short_repr(members)}", param="configs"
                )
            return [part for member in members for part in _parts(unclaimed, member, name, version, backbone)]
        case "lora":
            return lora_parts(unclaimed, inner, name, version or "", backbone)
        case "prefix_tuning":
            return prefix_parts(unclaimed, inner, name, backbone)
        case "prompt_tuning":
            return prompt_parts(unclaimed, inner, name, backbone)
    if "mh_adapter" not in inner:
        raise AdapterMismatch(
            f"AdapterHub's {short_repr(architecture)} is not supported; these are: bottleneck adapters, lora, "
            "prefix_tuning, prompt_tuning and unions of them",
            param="architecture",
        )
    return bottleneck_parts(unclaimed, inner, name, backbone, legacy=version is None)
