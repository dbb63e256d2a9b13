"""`manyhats-side/1`: a side network, alpha, and maybe a projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from torch import Tensor

from manyhats.errors import InvalidRequest
from manyhats.methods.component import Component
from manyhats.methods.libraries.fields import validate
from manyhats.methods.libraries.native import NativeFields, NativeFiles, NativeFormat
from manyhats.methods.libraries.native_files import FILE, WEIGHTS
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.side.config import NAME, NETWORK, SIDE_SITE, SideConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_PREFIX = "side."  # of the network's tensors
_PROJECTION = ("projection.weight", "projection.bias")


class SideFields(NativeFields):
    """`kind`: its own model, whose transformers config is `side_model_config`, or `layers` blocks of the
    backbone's kind. `projection`: where the widths differ."""

    kind: Literal["model", "layers"] = "model"
    side_model_config: dict[str, Any] = Field(default_factory=dict)
    layers: int = 0
    merge: Literal["alpha"] = "alpha"
    blend_at: Literal["last_hidden"] = "last_hidden"
    projection: Literal["linear"] | None = None


def _read(unclaimed: UnclaimedTensors, fields: SideFields, backbone: Backbone) -> Component[SideConfig]:
    """Claims `alpha`, `side.<parameter>`, and with a projection `projection.weight` and maybe `projection.bias`."""
    leaves: dict[str, Tensor] = {}
    for name in unclaimed.names():
        if name.startswith(_PREFIX):
            leaves[f"{NETWORK}{name.removeprefix(_PREFIX)}"] = unclaimed.claim(name)
        elif name == "alpha" or (fields.projection and name in _PROJECTION):
            leaves[name] = unclaimed.claim(name)
    if fields.projection and "projection.weight" not in leaves:
        raise InvalidRequest(f"{WEIGHTS} has no 'projection.weight'", param="projection")
    own = {"kind": fields.kind, "model": fields.side_model_config, "layers": fields.layers}
    config = validate(SideConfig, own, FILE, NAME)
    return Component(NAME, config, {SIDE_SITE: leaves})


def _write(component: Component[Any]) -> NativeFiles | None:
    config = component.config
    if not isinstance(config, SideConfig) or component.label not in (None, NAME):
        return None
    leaves = component.tensors[SIDE_SITE]
    fields = SideFields(
        kind=config.kind,
        side_model_config=config.model,
        layers=config.layers,
        merge="alpha",
        blend_at="last_hidden",
        projection="linear" if "projection.weight" in leaves else None,
    )
    tensors = {
        f"{_PREFIX}{name.removeprefix(NETWORK)}" if name.startswith(NETWORK) else name: tensor
        for name, tensor in leaves.items()
    }
    return NativeFiles(fields, tensors)


NATIVE = NativeFormat("manyhats-side/1", SideFields, _read, _write)
