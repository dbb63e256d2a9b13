"""An adapter: the parts of one or more methods and a head, as read from a file, and as bound to a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from manyhats.errors import AdapterMismatch
from manyhats.methods import METHODS
from manyhats.methods.base import Bound, Method, Part
from manyhats.methods.heads import Head, Kind

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter folder holds, in host memory.

    `matched_tensors`: how many of the file's tensors found their place (all, or reading fails). `settings`: what the
    files say about the task (labels, template, ...).
    """

    parts: tuple[Part, ...]
    head: Head | None
    kind: Kind
    matched_tensors: int
    base: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The methods' names, joined by `+`."""
        return "+".join(part.method for part in self.parts)

    @property
    def rank(self) -> int | None:
        """The first part's rank."""
        return METHODS[self.parts[0].method].rank(self.parts[0])

    @property
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return sum(part.nbytes for part in self.parts) + (self.head.nbytes if self.head else 0)

    def slot_size(self, backbone: Backbone) -> int:
        """Bytes that the adapter will take on the device."""
        sizes = (METHODS[part.method].slot_size(part, backbone) for part in self.parts)
        return sum(sizes) + (self.head.nbytes if self.head else 0)

    def check(self, backbone: Backbone) -> None:
        """Raises AdapterMismatch with the first thing that does not fit the backbone."""
        if not any(part.tensors for part in self.parts):
            raise AdapterMismatch("the adapter has no weights for any layer of the backbone")
        for part in self.parts:
            METHODS[part.method].check(part, backbone)
        if self.head is not None:
            self.head.check(backbone)

    @torch.inference_mode()
    def bind(self, backbone: Backbone) -> BoundAdapter:
        """The adapter ready to act on the backbone's device."""
        parts = tuple((METHODS[part.method], METHODS[part.method].bind(part, backbone)) for part in self.parts)
        return BoundAdapter(
            method=self.method,
            kind=self.kind,
            parts=parts,
            head=None if self.head is None else self.head.to(backbone),
        )


@dataclass(frozen=True, slots=True, eq=False)
class BoundAdapter:
    """An adapter ready to act. Compared by identity."""

    method: str
    kind: Kind
    parts: tuple[tuple[Method, Bound], ...]
    head: Head | None

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(bound.nbytes for _, bound in self.parts) + (self.head.nbytes if self.head else 0)

    @property
    def own_weight(self) -> bool:
        """Whether any part brings its own weights for linear layers."""
        return any(method.own_weight for method, _ in self.parts)

    @property
    def prefix_rows(self) -> int:
        """Rows that attention sees before every sequence."""
        return sum(bound.prefix_rows for _, bound in self.parts)

    @property
    def position_shift(self) -> int:
        """How far real tokens' positions move on."""
        return sum(bound.position_shift for _, bound in self.parts)


BARE = BoundAdapter(method="base", kind="embed", parts=(), head=None)
