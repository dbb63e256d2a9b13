"""Writes adapters in our own formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from manyhats.core.adapter import Adapter
from manyhats.formats.files import write_json, write_tensors
from manyhats.formats.native.description import (
    METHOD_FORMATS,
    PARTS,
    CommonFields,
    ComponentDescription,
    Description,
    HeadDescription,
    PartsFields,
)
from manyhats.formats.native.names import FILE, WEIGHTS
from manyhats.methods.component import Component
from manyhats.methods.libraries.native import NativeFiles

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes an adapter of one component in its method's own format, if it can store it; any other in parts."""
    tensors, head = _head(adapter)
    format, files = _own_format(adapter.components) or (PARTS, _parts(adapter.components))
    common: dict[str, Any] = {
        "base_model_name_or_path": backbone.name,
        "base_sha256": backbone.sha256,
        "task": dict(adapter.settings),
    } | ({"answers": adapter.kind} if head is None else {"head": head})
    description = Description(CommonFields(format=format, **common), files.fields)
    write_json(folder / FILE, description.to_json())
    write_tensors(folder / WEIGHTS, tensors | {name: tensor.clone() for name, tensor in files.tensors.items()})


def _own_format(components: Sequence[Component[Any]]) -> tuple[str, NativeFiles] | None:
    """A single component in a method's own format; None where no such format can store it."""
    if len(components) != 1:
        return None
    for name, format in METHOD_FORMATS.items():
        files = format.write(components[0])
        if files is not None:
            return name, files
    return None


def _parts(components: Sequence[Component[Any]]) -> NativeFiles:
    """Components of any method: `<index>:<site>:<name>`."""
    described = [
        ComponentDescription(method=component.method, config=component.config.model_dump(), label=component.label)
        for component in components
    ]
    tensors = {
        f"{index}:{site}:{leaf}": tensor
        for index, component in enumerate(components)
        for site, leaves in component.tensors.items()
        for leaf, tensor in leaves.items()
    }
    return NativeFiles(PartsFields(parts=described), tensors)


def _head(adapter: Adapter) -> tuple[dict[str, Tensor], HeadDescription | None]:
    if adapter.head is None:
        return {}, None
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(adapter.head.layers):
        tensors[f"head.{i}.weight"] = layer.weight
        if layer.bias is not None:
            tensors[f"head.{i}.bias"] = layer.bias
    head = HeadDescription(
        kind=adapter.head.kind,
        reads=adapter.head.reads,
        activations=[layer.activation for layer in adapter.head.layers],
    )
    return tensors, head
