"""Operations that replace the backbone's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from manyhats.backbone.sites import EmbeddingSite, LinearSite, NormSite
from manyhats.errors import AdapterMismatch
from manyhats.kernels.base import Rows, ScaleAdd, Weight
from manyhats.methods.base import BoundComponent
from manyhats.methods.component import StateDict
from manyhats.methods.operations import Operation, OwnNorm, OwnRows, OwnWeight, ScaleOutput
from manyhats.methods.sites import parameter_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def own_parameter(backbone: Backbone, site: str, leaf: str) -> Tensor:
    """The backbone's own, a linear layer's weight as (out, in). Raises AdapterMismatch where there is none."""
    own = parameter_site(backbone, site).parameter(leaf)
    if own is None:
        raise AdapterMismatch(
            f"'{site}' of the backbone {backbone.name} has no parameter '{leaf}'", param=f"{site}.{leaf}"
        )
    return own


def bound_parameters(backbone: Backbone, sites: Mapping[str, StateDict]) -> BoundComponent:
    """The bound component of parameters that replace the backbone's."""
    linear: dict[str, list[Operation]] = {}
    embedding: dict[str, OwnRows] = {}
    norm: dict[str, OwnNorm] = {}
    for site, leaves in sites.items():
        module = parameter_site(backbone, site)
        if isinstance(module, LinearSite):
            linear[module.name] = own_layer(module, leaves.get("weight"), leaves.get("bias"))
        elif isinstance(module, EmbeddingSite):
            embedding[module.name] = OwnRows(Rows(leaves["weight"]))
        elif isinstance(module, NormSite):
            norm[module.name] = _own_norm(module, leaves)
    return BoundComponent(linear=linear, embedding=embedding, norm=norm)


def own_layer(module: LinearSite, weight: Tensor | None, bias: Tensor | None) -> list[Operation]:
    """The operations for a linear layer's own weight (out, in) and bias (out,), for those that are given."""
    found: list[Operation] = []
    if weight is not None:
        found.append(OwnWeight(Weight(weight, module.bias)))
    if bias is not None:
        found.append(ScaleOutput(ScaleAdd(offset=bias if module.bias is None else bias - module.bias)))
    return found


def _own_norm(module: NormSite, leaves: StateDict) -> OwnNorm:
    """Gain and offset; the backbone's where they are not given."""
    gain, offset = (leaves.get(name, module.parameter(name)) for name in ("weight", "bias"))
    assert gain is not None, "a site of a norm has a weight"
    return OwnNorm(ScaleAdd(gain.float(), None if offset is None else offset.float()))
