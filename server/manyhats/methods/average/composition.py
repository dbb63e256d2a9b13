"""Averages of stored adapters: of bottleneck adapters, and of LoRAs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from manyhats.errors import AdapterMismatch
from manyhats.methods.average.method import average_of
from manyhats.methods.bottleneck import Bottleneck
from manyhats.methods.component import Component
from manyhats.methods.composition import Composition, CompositionFields, Member
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.lora import Lora, weighted_loras

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class AverageFields(CompositionFields):
    """`weights`: one for each member; None: equal weights."""

    format: ClassVar[str] = "manyhats-average/1"

    weights: list[Annotated[float, Field(allow_inf_nan=False)]] | None = None

    @model_validator(mode="after")
    def _has_all_weights(self) -> AverageFields:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"there are {len(self.weights)} weights for {len(self.members)} members")
        return self


def _compose(
    members: Sequence[Member], fields: AverageFields, unclaimed: UnclaimedTensors, backbone: Backbone
) -> list[Component[Any]]:
    weights = fields.weights or [1 / len(members)] * len(members)
    components = [member.single("averaged") for member in members]
    methods = {component.method for component in components}
    if methods == {Lora.name}:
        return [weighted_loras(components, weights)]
    if methods != {Bottleneck.name}:
        raise AdapterMismatch(
            f"adapters of the methods {', '.join(sorted(methods))} cannot be averaged; LoRAs can, and bottleneck "
            "adapters",
            param="members",
        )
    return [average_of(components, weights)]


AVERAGE = Composition(fields=AverageFields, compose=_compose)
