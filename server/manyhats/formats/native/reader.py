"""Reads an adapter in one of our own formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.native.description import METHOD_FORMATS, Description, HeadDescription, PartsFields
from manyhats.formats.native.names import FILE, WEIGHTS
from manyhats.formats.wrappers import open_tensors
from manyhats.methods.component import Component
from manyhats.methods.heads import Head, Layer
from manyhats.methods.libraries.fields import validate
from manyhats.methods.libraries.unclaimed import SiteTensors, UnclaimedTensors
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def read(folder: Path, description: Description, backbone: Backbone) -> Adapter:
    """Reads an adapter that is not composed of others. Raises InvalidRequest or AdapterMismatch with the reason."""
    common, fields = description.common, description.fields
    unclaimed = open_tensors(folder / WEIGHTS)
    head = read_head(unclaimed, common.head)
    if isinstance(fields, PartsFields):
        components = _read_parts(unclaimed, fields)
    else:
        components = [METHOD_FORMATS[common.format].read(unclaimed, fields, backbone)]
    unclaimed.check_all_claimed()
    return Adapter(
        components=tuple(components),
        head=head,
        kind=common.answers if head is None else head.kind,
        matched_tensors=unclaimed.claimed,
        base=common.base_model_name_or_path,
        settings=common.task,
        warnings=unclaimed.warnings,
    )


def read_head(unclaimed: UnclaimedTensors, description: HeadDescription | None) -> Head | None:
    """The head whose tensors are `head.<n>.weight` and `head.<n>.bias`."""
    if description is None:
        return None
    layers = []
    for i, activation in enumerate(description.activations):
        weight = unclaimed.claim_optional(f"head.{i}.weight")
        if weight is None:
            raise InvalidRequest(f"{WEIGHTS} has no 'head.{i}.weight'", param=f"head.{i}.weight")
        layers.append(Layer(weight, unclaimed.claim_optional(f"head.{i}.bias"), activation))
    return Head(description.kind, description.reads, tuple(layers))


def _read_parts(unclaimed: UnclaimedTensors, fields: PartsFields) -> list[Component[Any]]:
    """Claims `<index>:<site>:<name>`, in the order in which the components act."""
    sites: list[SiteTensors] = [{} for _ in fields.parts]
    for name in unclaimed.names():
        index, _, rest = name.partition(":")
        site, _, leaf = rest.partition(":")
        if not index.isdecimal() or not 0 <= int(index) < len(sites) or not leaf:
            continue
        sites[int(index)].setdefault(site, {})[leaf] = unclaimed.claim(name)
    components = []
    for described, own in zip(fields.parts, sites, strict=True):
        method = METHODS.get(described.method)
        if method is None:
            raise AdapterMismatch(
                f"the method '{described.method[:80]}' is not known; these are: {', '.join(METHODS)}", param="parts"
            )
        config = validate(method.config, described.config, f"{FILE}: parts", described.method)
        components.append(Component(described.method, config, own, label=described.label))
    return components
