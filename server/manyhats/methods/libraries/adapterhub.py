"""How AdapterHub's files store a method: the architecture that a method declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from manyhats.methods.component import Component
from manyhats.methods.libraries.unclaimed import UnclaimedTensors

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class AdapterHubFile(NamedTuple):
    """What surrounds the config of one adapter. `name`: the adapter's, a part of its tensors' names. `version`: of
    the library that wrote it; None before `adapters` 1.0."""

    name: str
    version: str | None


class AdapterHubTensors(NamedTuple):
    """What AdapterHub stores of a component: the inner config, and tensors by their names."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class AdapterHubArchitecture:
    """One AdapterHub architecture. `description`: its name in messages.

    `matches`: whether a config is of this architecture. `read` claims its tensors and makes components of them, in the
    order in which they act; it raises InvalidRequest for damaged files and AdapterMismatch for what does not fit the
    backbone. `write`, where it can be written, takes a component and the adapter's name, and raises InvalidRequest for
    what cannot be stored. `presets`: the configs behind the library's short names, for files that hold only the name.
    """

    description: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[UnclaimedTensors, Mapping[str, Any], AdapterHubFile, Backbone], list[Component[Any]]]
    write: Callable[[Component[Any], str, Backbone], AdapterHubTensors] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
