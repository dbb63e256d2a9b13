"""A format of our own for the components of one method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from manyhats.methods.component import C, Component
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class NativeFields(BaseModel):
    """Fields of `manyhats.json` that belong to one format."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NativeFiles(NamedTuple):
    """What is stored of a component."""

    fields: NativeFields
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class NativeFormat(Generic[C]):
    """`name`: the format's, like `manyhats-mask/1`.

    `read` claims the tensors; it raises InvalidRequest for damaged files and AdapterMismatch for what does not fit the
    backbone. `write` returns None for a component that it cannot store, as one of another method. Reading what was
    written gives the same component.
    """

    name: str
    fields: type[NativeFields]
    read: Callable[[UnclaimedTensors, Any, Backbone], Component[C]]
    write: Callable[[Component[Any]], NativeFiles | None]
