"""A format of our own that a method has for its components alone."""

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
    """Fields of `manyhats.json` that one format has beside those of all."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NativeFiles(NamedTuple):
    """What is stored of a component."""

    fields: NativeFields
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class NativeFormat(Generic[C]):
    """`name`: the format's, like `manyhats-mask/1`.

    `read` claims the tensors; it raises InvalidRequest for damaged files and AdapterMismatch for what does not fit the
    backbone. `write` gives None for a component that has no place in it, as one of another method. What is read of
    what was written is the same component.
    """

    name: str
    fields: type[NativeFields]
    read: Callable[[UnclaimedTensors, Any, Backbone], Component[C]]
    write: Callable[[Component[Any]], NativeFiles | None]
