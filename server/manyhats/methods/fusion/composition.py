"""Fusions of stored adapters, and those of AdapterHub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr
from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.bottleneck.members import is_bottleneck
from manyhats.methods.component import Component
from manyhats.methods.composition import AdapterHubComposition, Composition, CompositionFields, Member
from manyhats.methods.fusion.config import FusionFlags
from manyhats.methods.fusion.operation import fuse
from manyhats.methods.libraries.adapterhub_files import FUSION_CONFIG
from manyhats.methods.libraries.adapterhub_modules import residual_site, residual_sites
from manyhats.methods.libraries.fields import reject_fields
from manyhats.methods.libraries.unclaimed import UnclaimedTensors, claim_leaves

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

_IGNORED_FIELDS = {"dropout_prob", "regularization", "value_initialized", "temperature"}


class FusionFields(CompositionFields):
    """`fusion`: AdapterHub's flags."""

    format: ClassVar[str] = "manyhats-fusion/1"

    fusion: FusionFlags = Field(default_factory=FusionFlags)


def _compose(
    members: Sequence[Member], fields: FusionFields, unclaimed: UnclaimedTensors, backbone: Backbone
) -> list[Component[Any]]:
    """Claims `<site>.<leaf>`."""

    def place_of(name: str) -> tuple[str, str] | None:
        site = next((site for site in backbone.residual if name.startswith(f"{site}.")), None)
        return None if site is None else (site, name.removeprefix(f"{site}."))

    layers = claim_leaves(unclaimed, place_of)
    fused: list[Component[BottleneckConfig]] = []
    for member in members:
        component, short_sha = member.single("fused"), member.name[:12]
        if not is_bottleneck(component):
            raise AdapterMismatch(
                f"the member {short_sha} is a {component.method}; bottleneck adapters can be fused", param=member.name
            )
        if elsewhere := [site for site in component.tensors if site not in layers]:
            raise AdapterMismatch(
                f"the member {short_sha} acts at {elsewhere[0]}, where the fusion does not", param=member.name
            )
        fused.append(component)
    return [fuse(fused, layers, fields.fusion)]


def _read_adapterhub(
    unclaimed: UnclaimedTensors, config: Any, name: str, members: Sequence[Member], backbone: Backbone
) -> Component[Any]:
    """Claims `<module>.adapter_fusion_layer.<name>.<leaf>`."""
    fused: list[Component[BottleneckConfig]] = []
    for member in members:
        if len(member.components) != 1 or not is_bottleneck(member.components[0]):
            raise AdapterMismatch(
                f"'{member.name}' is no plain bottleneck adapter, and cannot be fused", param=member.name
            )
        fused.append(member.components[0])
    flags = _flags(config)
    known = residual_sites(backbone)

    def place_of(key: str) -> tuple[str, str] | None:
        module, found, leaf = key.partition(f".adapter_fusion_layer.{name}.")
        return (residual_site(module, key, backbone, known), leaf) if found else None

    layers = claim_leaves(unclaimed, place_of)
    for member, component in zip(members, fused, strict=True):
        if elsewhere := [site for site in component.tensors if site not in layers]:
            raise AdapterMismatch(
                f"'{member.name}' acts at {elsewhere[0]}, where the fusion does not", param=elsewhere[0]
            )
    return fuse(fused, layers, flags)


def _flags(config: Any) -> FusionFlags:
    """The fields of AdapterHub's fusion config that change the answer."""
    if config in ("static", "dynamic"):
        return FusionFlags(value=config == "dynamic")
    if not isinstance(config, dict):
        raise InvalidRequest(f"{FUSION_CONFIG}: config must be an object, not {short_repr(config)}", param="config")
    if config.get("temperature"):
        # There it starts at 50 and falls by 0.05 with every call: the answer would depend on earlier calls.
        raise AdapterMismatch(
            "a fusion with 'temperature' gives other answers at each call, and is not supported; set it to false to be "
            "served at the temperature 1 that it falls to",
            param="temperature",
        )
    fields = FusionFlags.model_fields
    reject_fields(config, _IGNORED_FIELDS | fields.keys())
    flags = {name: value for name, value in config.items() if name in fields}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidRequest(f"{FUSION_CONFIG}: {name} must be true or false, not {short_repr(value)}", param=name)
    return FusionFlags(**flags)


FUSION = Composition(
    fields=FusionFields,
    compose=_compose,
    needs_weights=True,
    adapterhub=AdapterHubComposition("Fuse", _read_adapterhub),
)
