"""Whole parameters in place of the backbone's: biases (BitFit, Ben Zaken et al. 2022), norms (LN-tuning), and any
module that was trained beside an adapter (PEFT's `modules_to_save`, `bias`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from manyhats.backbone.sites import EmbeddingSite, LinearSite, NormSite
from manyhats.errors import AdapterMismatch
from manyhats.kernels.base import Rows, ScaleAdd, Weight
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_shape, on_device
from manyhats.methods.component import Component, MethodConfig, StateDict, size_of
from manyhats.methods.operations import Operation, OwnNorm, OwnRows, OwnWeight, ScaleOutput
from manyhats.methods.options import Options
from manyhats.methods.sites import parameter_site

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class ParametersConfig(MethodConfig):
    """Nothing: the leaves are the parameters."""


class Parameters(Method[ParametersConfig]):
    """Leaves at a linear, embedding or norm site: the module's own parameters by their names (`weight`, `bias`)."""

    name: ClassVar[str] = "parameters"
    config = ParametersConfig
    tied_to_lm_head_ok = False

    def check(self, component: Component[ParametersConfig], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            place = parameter_site(backbone, site)
            for leaf, tensor in leaves.items():
                if isinstance(place, LinearSite) and leaf == "bias":  # added where the backbone has none
                    shape: tuple[int, ...] = place.shape[:1]
                else:
                    shape = tuple(own_parameter(backbone, site, leaf).shape)
                expect_shape(tensor, shape, f"{site}.{leaf}", backbone)

    def bind(self, component: Component[ParametersConfig], backbone: Backbone) -> BoundComponent:
        ready = {site: on_device(leaves, backbone) for site, leaves in component.tensors.items()}
        bound = bound_parameters(backbone, ready)
        bound.nbytes = size_of(ready.values())
        return bound

    def replaced_weights(self, component: Component[ParametersConfig]) -> set[str]:
        return {site for site, leaves in component.tensors.items() if "weight" in leaves}

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        which = chosen.choice("which", "biases", ("biases", "norms", "all"))
        chosen.done()
        if which == "norms":
            norms = [site for name, site in backbone.norm.items() if not backbone.in_vocabulary_head(name)]
            names = [(site.name, leaf) for site in norms for leaf in site.parameter_names()]
            return _TrainableParameters(backbone, names, "ln")
        every = [*backbone.linear.values(), *backbone.norm.values()]
        places = [place for place in every if not backbone.in_vocabulary_head(place.name)]
        if which == "all":
            tables = [site for site in backbone.embedding.values() if not backbone.in_vocabulary_head(site.name)]
            names = [(place.name, leaf) for place in (*places, *tables) for leaf in place.parameter_names()]
            return _TrainableParameters(backbone, names, "full")
        names = [(place.name, "bias") for place in places if place.parameter("bias") is not None]
        return _TrainableParameters(backbone, names, "bias")


def own_parameter(backbone: Backbone, site: str, leaf: str) -> Tensor:
    """The backbone's own, a linear layer's weight as (out, in). Raises AdapterMismatch where there is none."""
    own = parameter_site(backbone, site).parameter(leaf)
    if own is None:
        raise AdapterMismatch(
            f"'{site}' of the backbone {backbone.name} has no parameter '{leaf}'", param=f"{site}.{leaf}"
        )
    return own


def bound_parameters(backbone: Backbone, sites: Mapping[str, StateDict]) -> BoundComponent:
    """What acts where parameters on the device stand in place of the backbone's."""
    linear: dict[str, list[Operation]] = {}
    embedding: dict[str, OwnRows] = {}
    norm: dict[str, OwnNorm] = {}
    for site, leaves in sites.items():
        place = backbone.parameter_site(site)
        if isinstance(place, LinearSite):
            linear[place.name] = own_layer(place, leaves.get("weight"), leaves.get("bias"))
        elif isinstance(place, EmbeddingSite):
            embedding[place.name] = OwnRows(Rows(leaves["weight"]))
        elif isinstance(place, NormSite):
            norm[place.name] = _own_norm(place, leaves)
    return BoundComponent(linear=linear, embedding=embedding, norm=norm)


def own_layer(place: LinearSite, weight: Tensor | None, bias: Tensor | None) -> list[Operation]:
    """A linear layer's own weight (out, in) and bias (out,), each only where it is given."""
    found: list[Operation] = []
    if weight is not None:
        found.append(OwnWeight(Weight(weight, place.bias)))
    if bias is not None:
        found.append(ScaleOutput(ScaleAdd(offset=bias if place.bias is None else bias - place.bias)))
    return found


def _own_norm(place: NormSite, leaves: StateDict) -> OwnNorm:
    """Those that are not given are the backbone's."""
    gain, offset = (leaves.get(name, place.parameter(name)) for name in ("weight", "bias"))
    assert gain is not None, "a site of a norm has a weight"
    return OwnNorm(ScaleAdd(gain.float(), None if offset is None else offset.float()))


class _TrainableParameters(Trainable):
    def __init__(self, backbone: Backbone, names: Sequence[tuple[str, str]], label: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = list(names)
        self.label = label
        self.values = nn.ParameterList()
        for site, leaf in self.names:
            own = own_parameter(backbone, site, leaf)
            self.values.append(nn.Parameter(own.detach().float().clone()))

    def _sites(self) -> dict[str, dict[str, Tensor]]:
        sites: dict[str, dict[str, Tensor]] = {}
        for (site, leaf), value in zip(self.names, self.values, strict=True):
            sites.setdefault(site, {})[leaf] = value
        return sites

    def bound(self) -> BoundComponent:
        return bound_parameters(self.backbone, self._sites())

    def component(self) -> Component[ParametersConfig]:
        tensors = {site: {n: t.detach().cpu() for n, t in leaves.items()} for site, leaves in self._sites().items()}
        return Component(Parameters.name, ParametersConfig(), tensors, label=self.label)
