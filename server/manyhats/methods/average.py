"""Averaging: the outputs of several bottleneck adapters at one place, weighted (AdapterHub's `Average`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor

from manyhats.errors import AdapterMismatch
from manyhats.methods.base import Bound, Method, MethodConfig, Norm, Part, Spans, on_device, size_of
from manyhats.methods.bottleneck import Bottleneck, BottleneckConfig, BottleneckStep, bottleneck_step
from manyhats.methods.fusion import member_leaves

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class AverageConfig(MethodConfig):
    """`members`: the adapters' configs; `weights`: one for each."""

    members: tuple[BottleneckConfig, ...] = Field(min_length=2)
    weights: tuple[float, ...]


@dataclass(slots=True)
class _AverageStep:
    members: list[tuple[float, BottleneckStep]]

    def step(self, hidden: Tensor, f: Tensor, x: Tensor, norm: Norm | None, joined: Tensor, spans: Spans) -> Tensor:
        outs = [weight * member.step(hidden, f, x, norm, joined, spans) for weight, member in self.members]
        total = outs[0]
        for out in outs[1:]:
            total = total + out
        return total

    def finish(self, hidden: Tensor, f: Tensor, x: Tensor, norm: Norm | None) -> Tensor:
        return self.members[-1][1].finish(hidden, f, x, norm)


class Average(Method):
    """Leaves at a residual site: `member.<i>.<leaf of bottleneck>`, of every member."""

    name: ClassVar[str] = "average"
    config: ClassVar[type[MethodConfig]] = AverageConfig

    def check(self, part: Part, backbone: Backbone) -> None:
        config = part.config
        assert isinstance(config, AverageConfig)
        if len(config.weights) != len(config.members):
            raise AdapterMismatch(
                f"there are {len(config.weights)} weights for {len(config.members)} members", param="weights"
            )
        for index, member in enumerate(config.members):
            sites = {site: member_leaves(leaves, index) for site, leaves in part.tensors.items()}
            missing = [site for site, leaves in sites.items() if not leaves]
            if missing:
                raise AdapterMismatch(f"the member {index} has no adapter at {missing[0]}", param=missing[0])
            Bottleneck().check(Part(Bottleneck.name, member, sites), backbone)

    def bind(self, part: Part, backbone: Backbone) -> Bound:
        assert isinstance(part.config, AverageConfig)
        ready = {site: on_device(leaves, backbone) for site, leaves in part.tensors.items()}
        pairs = list(zip(part.config.weights, part.config.members, strict=True))
        steps = {
            site: _AverageStep(
                [
                    (weight, bottleneck_step(member_leaves(leaves, i), config))
                    for i, (weight, config) in enumerate(pairs)
                ]
            )
            for site, leaves in ready.items()
        }
        return Bound(residual=steps, nbytes=size_of(ready.values()))
