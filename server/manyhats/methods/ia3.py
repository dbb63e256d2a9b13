"""IA3: learned vectors that rescale activations (Liu et al. 2022, section 3.3).

y = l * (W x + b)        at keys, values, and AdapterHub's feed-forward
y = W (l * x) + b        at the feed-forward layers of PEFT's files
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.kernels.base import ScaleAdd
from manyhats.methods.base import BoundComponent, Method, Trainable, expect_shape, on_device
from manyhats.methods.component import Component, MethodConfig, StateDict, size_of
from manyhats.methods.operations import Operation, ScaleInput, ScaleOutput
from manyhats.methods.options import Options
from manyhats.methods.sites import linear_site
from manyhats.methods.targets import target_sites

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Ia3Config(MethodConfig):
    """Nothing: the leaves say which side of the layer is rescaled."""


def _operations(leaves: StateDict) -> list[Operation]:
    found: list[Operation] = []
    if "input" in leaves:
        found.append(ScaleInput(ScaleAdd(gain=leaves["input"])))
    if "output" in leaves:
        found.append(ScaleOutput(ScaleAdd(gain=leaves["output"])))
    return found


class Ia3(Method[Ia3Config]):
    """Leaves at a linear site: `output` (out,), `input` (in,), or both."""

    name: ClassVar[str] = "ia3"
    config = Ia3Config

    def check(self, component: Component[Ia3Config], backbone: Backbone) -> None:
        for site, leaves in component.tensors.items():
            out, width = linear_site(backbone, site).shape
            shapes = {"output": (out,), "input": (width,)}
            for leaf, tensor in leaves.items():
                if leaf not in shapes:
                    raise AdapterMismatch(f"IA3 has no place for '{site}.{leaf}'", param=leaf)
                expect_shape(tensor, shapes[leaf], f"{site}.ia3_l", backbone)

    def bind(self, component: Component[Ia3Config], backbone: Backbone) -> BoundComponent:
        ready = {site: on_device(leaves, backbone) for site, leaves in component.tensors.items()}
        linear = {site: _operations(leaves) for site, leaves in ready.items()}
        return BoundComponent(linear=linear, nbytes=size_of(ready.values()))

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        outputs = chosen.names("targets", ["keys-and-values"])
        inputs = chosen.names("feedforward", ["feed-forward"])
        chosen.done()
        return _TrainableIa3(
            backbone,
            _named(backbone, outputs, ["keys-and-values"], KEYS_AND_VALUES, "targets"),
            _named(backbone, inputs, ["feed-forward"], FEED_FORWARD, "feedforward"),
        )


# What the families call the layers that the paper rescales.
KEYS_AND_VALUES = ("key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "query_key_value", "Wqkv", "attn.c_attn")
FEED_FORWARD = ("output.dense", "down_proj", "lin2", "fc2", "ffn_output", "dense_4h_to_h", "mlp.c_proj", "mlp.Wo")


def _named(
    backbone: Backbone, given: Sequence[str], meant: Sequence[str], known: Sequence[str], option: str
) -> list[str]:
    """The sites that the names mean, or those that the families call so."""
    if list(given) != list(meant):
        return target_sites(backbone, given)
    found = [
        site
        for site in target_sites(backbone, ["all-linear"])
        if site.endswith(tuple("." + name for name in known)) and not site.endswith("attention.output.dense")
    ]
    if not found:
        raise InvalidRequest(f"ia3: name the layers of this backbone by the option {option}", param=option)
    return found


class _TrainableIa3(Trainable):
    def __init__(self, backbone: Backbone, outputs: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.sites = [*outputs, *inputs]
        sizes = [backbone.linear[site].shape[0] for site in outputs] + [backbone.linear[s].shape[1] for s in inputs]
        self.scales = nn.ParameterList(  # ones: training starts from the backbone
            nn.Parameter(torch.ones(size, device=backbone.device)) for size in sizes
        )

    def _leaves(self) -> dict[str, dict[str, Tensor]]:
        sites: dict[str, dict[str, Tensor]] = {}
        for index, (site, scale) in enumerate(zip(self.sites, self.scales, strict=True)):
            sites.setdefault(site, {})["output" if index < len(self.outputs) else "input"] = scale
        return sites

    def bound(self) -> BoundComponent:
        return BoundComponent(linear={site: _operations(leaves) for site, leaves in self._leaves().items()})

    def component(self) -> Component[Ia3Config]:
        sites = self._leaves().items()
        return Component(
            Ia3.name,
            Ia3Config(),
            {site: {name: scale.detach().cpu() for name, scale in leaves.items()} for site, leaves in sites},
        )
