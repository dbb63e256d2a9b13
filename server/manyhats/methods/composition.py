"""Adapters composed of others: what each composition states of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from pydantic import Field, model_validator

from manyhats.errors import AdapterMismatch
from manyhats.methods.component import Component
from manyhats.methods.libraries.native import NativeFields
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

Sha = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Member(NamedTuple):
    """One of the adapters. `name`: the sha256 of a stored one, or what AdapterHub's files call it."""

    name: str
    components: Sequence[Component[Any]]

    def single(self, purpose: str) -> Component[Any]:
        """Its only component. Raises AdapterMismatch where it has several; `purpose`: what needs a single one, for the
        message."""
        if len(self.components) != 1:
            raise AdapterMismatch(
                f"the member {self.name[:12]} has {len(self.components)} parts, and cannot be {purpose}",
                param=self.name,
            )
        return self.components[0]


class CompositionFields(NativeFields):
    """The fields of `manyhats.json` for one composition. `members`: the sha256 of stored versions."""

    format: ClassVar[str]

    members: list[Sha] = Field(default_factory=list, max_length=64)

    @model_validator(mode="after")
    def _has_members(self) -> CompositionFields:
        if len(self.members) < 2:
            raise ValueError(f"the format {self.format} needs two members or more")
        return self


@dataclass(frozen=True, slots=True)
class AdapterHubComposition:
    """An AdapterHub composition with its own config and tensors.

    `block`: its type in `adapter_setup.json`. `read` makes a component of the members and of the tensors, which it
    claims; its third argument is the composition's name, a part of the tensors' names. It raises InvalidRequest for
    damaged files and AdapterMismatch for what does not fit.
    """

    block: str
    read: Callable[[UnclaimedTensors, Any, str, Sequence[Member], Backbone], Component[Any]]


@dataclass(frozen=True, slots=True)
class Composition:
    """A way of composing one adapter of several.

    `fields`: of its format in `manyhats.json`. `compose` makes components of the members, in the order in which they
    act, and claims the composition's own tensors; it raises AdapterMismatch where the members cannot be composed so.
    `needs_weights`: whether it needs tensors of its own. `adapterhub`: AdapterHub's counterpart.
    """

    fields: type[CompositionFields]
    compose: Callable[[Sequence[Member], Any, UnclaimedTensors, Backbone], list[Component[Any]]]
    needs_weights: bool = False
    adapterhub: AdapterHubComposition | None = None

    @property
    def format(self) -> str:
        """The native format's name."""
        return self.fields.format
