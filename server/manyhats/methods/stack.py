"""Stacks: one adapter after another (MAD-X, Pfeiffer et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from manyhats.methods.component import Component
from manyhats.methods.composition import Composition, CompositionFields, Member
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class StackFields(CompositionFields):
    """No fields but the members."""

    format: ClassVar[str] = "manyhats-stack/1"


def _compose(
    members: Sequence[Member], fields: StackFields, unclaimed: UnclaimedTensors, backbone: Backbone
) -> list[Component[Any]]:
    return [component for member in members for component in member.components]


STACK = Composition(fields=StackFields, compose=_compose)
