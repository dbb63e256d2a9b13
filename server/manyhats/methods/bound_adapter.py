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
from manyhats.methods.heads import Head
from manyhats.methods.operations import HeadLayer, Operation, OwnMask, OwnRows, OwnWeight, PrefixRows, ScaleInput, Step
from manyhats.methods.signature import Category, Placement, Signature, signature_of


@dataclass(eq=False)
class BoundAdapter:
    """An adapter ready to act. Compared by identity. `non_causal`: see `Method[Any].non_causal`.

    `slot`: its number in the backbone's tables, which set it; None until it first acts.
    """

    method: str
    components: tuple[tuple[Method[Any], BoundComponent], ...]
    head: Head | None
    non_causal: bool = False
    projection: Projection | None = None  # None: the backbone's own
    slot: int | None = field(default=None, init=False)

    @property
    def derived(self) -> list[BoundAdapter]:
        """The adapters that were made of it for parts of a text, and have slots of their own."""
        return [one for name in ("starting", "resumed") if (one := self.__dict__.get(name)) is not None]

    @cached_property
    def signature(self) -> Signature:
        """Where it acts, and how."""
        return self._placed[0]

    @property
    def operations(self) -> list[Operation]:
        """One for each placement of its signature."""
        return self._placed[1]

    @cached_property
    def _placed(self) -> tuple[Signature, list[Operation]]:
        stages: Counter[tuple[str, str | int]] = Counter()
        placements: list[Placement] = []
        operations: list[Operation] = []

        def put(category: Category, site: str | int, operation: Operation) -> None:
            placements.append(Placement(category, site, stages[category, site], operation.kind))
            stages[category, site] += 1
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
                put("embedding", site, look_up if isinstance(look_up, OwnRows) else Step(look_up))
            for site, change in bound.states.items():
                put("states", site, Step(change))
            for layer, rows in bound.key_value.items():
                put("key_value", layer, rows if isinstance(rows, PrefixRows) else Step(rows))
        if self.head is not None:
            for i, own in enumerate(self.head.layers):
                put("head", i, HeadLayer(Weight(own.weight, own.bias)))
        return signature_of(tuple(placements)), operations

    @cached_property
    def starting(self) -> BoundAdapter:
        """How it acts on the beginning of a text whose prefix is in the cache already."""
        return self._without(lambda bound: {"key_value": {}, "prefix_rows": 0})

    @cached_property
    def resumed(self) -> BoundAdapter:
        """How it acts on a text's further tokens, all before them being in the cache already."""
        nothing: dict[str, Any] = {"embedding": {}, "states": {}, "virtual_tokens": 0}
        return self.starting._without(lambda bound: nothing if bound.virtual_tokens else {})

    def _without(self, changes: Callable[[BoundComponent], dict[str, Any]]) -> BoundAdapter:
        """Itself, where nothing changes."""
        components = []
        for method, bound in self.components:
            real = {name: value for name, value in changes(bound).items() if getattr(bound, name)}
            components.append((method, replace(bound, **real) if real else bound))
        changed = any(new is not old for (_, new), (_, old) in zip(components, self.components, strict=True))
        return replace(self, components=tuple(components)) if changed else self

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values that stand before every text: (prefix_rows, kv_heads, head_dim)."""
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
        """Rows that attention sees before every sequence."""
        return sum(bound.prefix_rows for _, bound in self.components)

    @property
    def prefix_each(self) -> bool:
        """Whether every sequence has prefix rows of its own."""
        return any(bound.prefix_each for _, bound in self.components)

    @property
    def prefix_left_out(self) -> frozenset[int]:
        """Layers at which the prefix rows are not seen."""
        return frozenset().union(*(bound.prefix_left_out for _, bound in self.components if bound.prefix_rows))

    @property
    def virtual_tokens(self) -> int:
        """Rows before every sequence's own tokens."""
        return sum(bound.virtual_tokens for _, bound in self.components)

    @property
    def position_shift(self) -> int:
        """How far real tokens' positions move on."""
        return sum(bound.position_shift for _, bound in self.components)


_LINEAR: dict[type, Category] = {ScaleInput: "input", OwnWeight: "weight", OwnMask: "weight"}

BARE = BoundAdapter(method="base", components=(), head=None)
