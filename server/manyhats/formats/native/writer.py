"""Writes adapters in our own formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import kinds_of_head
from manyhats.formats.files import write_json, write_tensors
from manyhats.formats.heads import kind_as_read
from manyhats.formats.native.description import TASK, ComponentDescription, Description, HeadDescription
from manyhats.formats.native.names import FILE, WEIGHTS
from manyhats.methods.mask import MaskConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def write(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """A mask as `manyhats-mask/1`, every other adapter as `manyhats-parts/1`."""
    tensors, head = _head(adapter)
    common: dict[str, Any] = {
        "base_model_name_or_path": backbone.name,
        "base_sha256": backbone.sha256,
        "task": dict(adapter.settings),
    } | ({"answers": adapter.kind} if head is None else {"head": head})
    masks = [part for part in adapter.components if isinstance(part.config, MaskConfig)]
    if len(adapter.components) == 1 and masks:
        (part,) = masks
        assert isinstance(part.config, MaskConfig)
        tensors |= {f"{site}.mask": leaves["mask"] for site, leaves in part.tensors.items()}
        weights = sum(out * width for out, width in part.config.shapes.values())
        kept = sum(_ones(leaves["mask"]) for leaves in part.tensors.values())
        description = Description(
            format="manyhats-mask/1",
            shapes=part.config.shapes,
            bit_order="little",
            keep_is_one=True,
            zeros_fraction=round(1 - kept / weights, 6),
            **common,
        )
    else:
        parts = []
        for index, part in enumerate(adapter.components):
            parts.append(ComponentDescription(method=part.method, config=part.config.model_dump(), label=part.label))
            tensors |= {
                f"{index}:{site}:{leaf}": tensor.clone()
                for site, leaves in part.tensors.items()
                for leaf, tensor in leaves.items()
            }
        description = Description(format="manyhats-parts/1", parts=parts, **common)
    write_json(folder / FILE, description.model_dump(exclude_none=True, exclude_unset=True, mode="json"))
    write_tensors(folder / WEIGHTS, tensors)


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


def write_task(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes what another library's files have no place for."""
    head = adapter.head
    read_as_other = head is not None and head.kind in kinds_of_head(head) and kind_as_read(head) != head.kind
    description = Description(
        format=TASK,
        base_model_name_or_path=backbone.name,
        base_sha256=backbone.sha256,
        task=dict(adapter.settings) | ({"kind": adapter.kind} if read_as_other else {}),
    )
    keep = {"format", "base_model_name_or_path", "base_sha256", "task"}
    write_json(folder / FILE, description.model_dump(include=keep))


def _ones(packed: Tensor) -> int:
    """How many bits are set."""
    return sum(int(((packed >> bit) & 1).sum()) for bit in range(8))
