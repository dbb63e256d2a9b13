"""An adapter on the device: the components of one or more methods and a head, ready to act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from manyhats.backbone.sentence import Projection
from manyhats.kernels.base import Weight
from manyhats.methods.base import BoundComponent, Method
from manyhats.methods.copy_stream import Arrival
from manyhats.methods.heads import Head
from manyhats.methods.operations import HeadLayer, Operation, OwnMask, OwnWeight, ScaleInput, as_operation
from manyhats.methods.signature import Category, Placement, Signature, signature_of


@dataclass(eq=False)
class BoundAdapter:
    """An adapter on the device. Compared by identity. `non_causal`: see `Method.non_causal`.

    `arrival`: when its tensors are on the device; None where they are. `slot`: its slot in the backbone's tables, which
    set it; None where it has none yet.
    """

    method: str
    components: tuple[tuple[Method[Any], BoundComponent], ...]
    head: Head | None
    non_causal: bool = False
    projection: Projection | None = None  # None: the backbone's
    arrival: Arrival | None = None
    slot: int | None = field(default=None, init=False)

    def arrive(self) -> None:
        """Has torch's current stream wait, once, until the tensors are there. Whoever runs a pass with the adapter, or
        reads its tensors, calls this before, in the thread and the stream of the passes. The host does not wait."""
        if self.arrival is not None:
            self.arrival.wait_on_stream()
            self.arrival = None

    @property
    def derived(self) -> list[BoundAdapter]:
        """The adapters derived from it for chunks of a sequence, which have slots of their own."""
        return [one for name in _DERIVED if (one := self.__dict__.get(name)) is not None]

    def drop_derived(self) -> None:
        """Lets go of them. One that is the adapter itself would keep its memory until cycles are collected."""
        for one in self.derived:
            for name in _DERIVED:
                one.__dict__.pop(name, None)
        for name in _DERIVED:
            self.__dict__.pop(name, None)

    @cached_property
    def signature(self) -> Signature:
        """At which sites it acts, and with which kinds of operations."""
        return self._placed[0]

    @property
    def operations(self) -> list[Operation]:
        """One for each placement of its signature."""
        return self._placed[1]

    @cached_property
    def _placed(self) -> tuple[Signature, list[Operation]]:
        orders: Counter[tuple[str, str | int]] = Counter()
        placements: list[Placement] = []
        operations: list[Operation] = []

        def put(category: Category, site: str | int, operation: Operation) -> None:
            placements.append(Placement(category, site, orders[category, site], operation.kind))
            orders[category, site] += 1
            operations.append(operation)

        for _, bound in self.components:
            for site, several in bound.linear.items():
                for one in several:
                    put(_LINEAR.get(type(one), "output"), site, one)
            for site, norm in bound.norm.items():
                put("norm", site, norm)
            for site, residual in bound.residual.items():
                put("residual", site, residual)
            for site, look_up in bound.embedding.items():
                put("embedding", site, as_operation(look_up))
            for site, change in bound.states.items():
                put("states", site, as_operation(change))
            for layer, rows in bound.key_value.items():
                put("key_value", layer, as_operation(rows))
        if self.head is not None:
            for i, own in enumerate(self.head.layers):
                put("head", i, HeadLayer(Weight(own.weight, own.bias)))
        return signature_of(tuple(placements)), operations

    @cached_property
    def first_chunk(self) -> BoundAdapter:
        """The adapter for a sequence's first chunk, where its prefix is in the cache already."""
        return self._without(lambda bound: {"key_value": {}, "prefix_rows": 0})

    @cached_property
    def later_chunks(self) -> BoundAdapter:
        """The adapter for a sequence's later chunks, where all earlier positions are in the cache already."""
        nothing: dict[str, Any] = {"embedding": {}, "states": {}, "virtual_tokens": 0}
        return self.first_chunk._without(lambda bound: nothing if bound.virtual_tokens else {})

    def _without(self, changes: Callable[[BoundComponent], dict[str, Any]]) -> BoundAdapter:
        """A copy with changed components; the adapter itself where nothing changes."""
        components = []
        for method, bound in self.components:
            real = {name: value for name, value in changes(bound).items() if getattr(bound, name)}
            components.append((method, replace(bound, **real) if real else bound))
        changed = any(new is not old for (_, new), (_, old) in zip(components, self.components, strict=True))
        return replace(self, components=tuple(components)) if changed else self

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values before those of every sequence, in one layer: (prefix_rows, kv_heads, head_dim) each."""
        self.arrive()
        steps = [bound.key_value[layer] for _, bound in self.components if bound.key_value]
        rows = [step(torch.empty(0), ()) for step in steps]
        return torch.cat([keys for keys, _ in rows]), torch.cat([values for _, values in rows])

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        outputs = sum(component.nbytes for component in (self.head, self.projection) if component is not None)
        return sum(bound.nbytes for _, bound in self.components) + outputs

    @property
    def prefix_rows(self) -> int:
        """How many rows of keys and values precede those of every sequence."""
        return sum(bound.prefix_rows for _, bound in self.components)

    @property
    def prefix_each(self) -> bool:
        """Whether the prefix rows differ between sequences."""
        return any(bound.prefix_each for _, bound in self.components)

    @property
    def prefix_left_out(self) -> frozenset[int]:
        """Layers without the prefix rows."""
        return frozenset().union(*(bound.prefix_left_out for _, bound in self.components if bound.prefix_rows))

    @property
    def virtual_tokens(self) -> int:
        """How many virtual tokens precede every sequence's own tokens."""
        return sum(bound.virtual_tokens for _, bound in self.components)

    @property
    def position_offset(self) -> int:
        """What is added to the positions of real tokens."""
        return sum(bound.position_offset for _, bound in self.components)


_DERIVED = ("first_chunk", "later_chunks")
_LINEAR: dict[type, Category] = {ScaleInput: "input", OwnWeight: "weight", OwnMask: "weight"}

BARE = BoundAdapter(method="base", components=(), head=None)
