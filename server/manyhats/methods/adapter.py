"""An adapter: the parts of one or more methods and a head, as read from a file, and as bound to a backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.backbone.sentence import Projection
from manyhats.errors import AdapterMismatch
from manyhats.kernels.base import Weight
from manyhats.methods import METHODS
from manyhats.methods.base import BoundComponent, Component, Method
from manyhats.methods.heads import Head, Kind, headless_kinds
from manyhats.methods.operations import HeadLayer, Operation, OwnMask, OwnRows, OwnWeight, PrefixRows, ScaleInput, Step
from manyhats.methods.signature import Category, Placement, Signature, signature_of
from manyhats.methods.slots import slot_tables

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter folder holds, in host memory.

    `matched_tensors`: how many of the file's tensors found their place (all, or reading fails). `settings`: what the
    files say about the task (labels, template, ...). `projection`: what stands behind an embedding's pooling;
    None: what the backbone brings.
    """

    components: tuple[Component, ...]
    head: Head | None
    kind: Kind
    matched_tensors: int
    base: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    references: tuple[str, ...] = ()  # sha256 of the stored contents that it is made of
    projection: Projection | None = None

    @property
    def method(self) -> str:
        """What the parts are called, joined by `+`."""
        return "+".join(dict.fromkeys(part.label or part.method for part in self.components))

    @property
    def rank(self) -> int | None:
        """The rank of the first part that has one."""
        ranks = (METHODS[part.method].rank(part) for part in self.components)
        return next((rank for rank in ranks if rank is not None), None)

    @property
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return sum(part.nbytes for part in self.components) + self._output_bytes

    def slot_size(self, backbone: Backbone) -> int:
        """Bytes that the adapter will take on the device."""
        sizes = (METHODS[part.method].slot_size(part, backbone) for part in self.components)
        return sum(sizes) + self._output_bytes

    @property
    def _output_bytes(self) -> int:
        """Bytes of what stands behind the states."""
        return sum(part.nbytes for part in (self.head, self.projection) if part is not None)

    def kinds(self, backbone: Backbone) -> tuple[Kind, ...]:
        """What it may be asked for; its own kind is among them."""
        if self.head is None:
            found = headless_kinds(backbone)
            if any(part.method == "invertible" for part in self.components):
                found = ("embed",)
            return (self.kind, *(kind for kind in found if kind != self.kind))
        return self.head.kinds

    def as_kind(self, kind: Kind | None, backbone: Backbone) -> Adapter:
        """Itself for that kind, where its head allows it; else as it is."""
        if kind is None or kind == self.kind or kind not in self.kinds(backbone):
            return self
        head = None if self.head is None else replace(self.head, kind=kind)
        return replace(self, kind=kind, head=head)

    def check(self, backbone: Backbone) -> None:
        """Raises AdapterMismatch with the first thing that does not fit the backbone."""
        if not any(part.tensors for part in self.components):
            raise AdapterMismatch("the adapter has no weights for any layer of the backbone")
        replaced: set[str] = set()
        for part in self.components:
            method = METHODS[part.method]
            method.check(part, backbone)
            twice = replaced & method.replaced_weights(part)
            if twice:
                raise AdapterMismatch(f"two parts of the adapter bring a weight for '{min(twice)}'", param=min(twice))
            replaced |= method.replaced_weights(part)
        prefixes = [part for part in self.components if part.method == "prefix"]
        if len({part.gated for part in prefixes}) > 1:
            raise AdapterMismatch("of several prefixes in one adapter all are gated or none", param="parts")
        if len(prefixes) > 1 and any(getattr(part.config, "left_out", ()) for part in prefixes):
            raise AdapterMismatch("of several prefixes in one adapter each must be for all layers", param="leave_out")
        if {"side", "prompt"} <= {part.method for part in self.components}:
            raise AdapterMismatch("a prompt's virtual tokens mean nothing to a side network", param="parts")
        if self.kind == "generate" and not backbone.has_language_model:
            raise AdapterMismatch(
                f"the adapter is for generating text, but the backbone {backbone.name} has no language-model head",
                param="kind",
            )
        if self.kind == "fill" and not backbone.fills_masks:
            raise AdapterMismatch(
                f"the adapter is for filling masks, but the backbone {backbone.name} has no masked language-model head",
                param="kind",
            )
        if self.kind in ("generate", "fill") and any(part.method == "invertible" for part in self.components):
            raise AdapterMismatch(
                "an invertible adapter is undone before the language-model head, which is not supported; it is for "
                "tasks without that head",
                param="inv_adapter",
            )
        if self.head is not None:
            self.head.check(backbone)

    @torch.inference_mode()
    def bind(self, backbone: Backbone) -> BoundAdapter:
        """The adapter ready to act on the backbone's device."""
        parts = tuple((METHODS[part.method], METHODS[part.method].bind(part, backbone)) for part in self.components)
        bound = BoundAdapter(
            method=self.method,
            kind=self.kind,
            components=parts,
            head=None if self.head is None else self.head.to(backbone),
            projection=None if self.projection is None else self.projection.to(backbone.device, backbone.dtype),
            non_causal=any(METHODS[part.method].non_causal(part) for part in self.components),
        )
        slot_tables(backbone).slot_of(bound)  # here, and not when a batch waits for it
        return bound


@dataclass(eq=False)
class BoundAdapter:
    """An adapter ready to act. Compared by identity. `non_causal`: see `Method.non_causal`.

    `slot`: its number in the backbone's tables, which set it; None until it first acts.
    """

    method: str
    kind: Kind
    components: tuple[tuple[Method, BoundComponent], ...]
    head: Head | None
    non_causal: bool = False
    projection: Projection | None = None  # None: the backbone's own
    slot: int | None = field(default=None, init=False)

    def release(self, backbone: Backbone) -> None:
        """Frees its slot, which no pass uses any more."""
        for one in (self, self.__dict__.get("starting"), self.__dict__.get("resumed")):
            if one is not None:
                slot_tables(backbone).release(one)

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
        parts = []
        for method, bound in self.components:
            real = {name: value for name, value in changes(bound).items() if getattr(bound, name)}
            parts.append((method, replace(bound, **real) if real else bound))
        changed = any(new is not old for (_, new), (_, old) in zip(parts, self.components, strict=True))
        return replace(self, components=tuple(parts)) if changed else self

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values that stand before every text: (prefix_rows, kv_heads, head_dim)."""
        steps = [bound.key_value[layer] for _, bound in self.components if bound.key_value]
        rows = [step(torch.empty(0), ()) for step in steps]
        return torch.cat([keys for keys, _ in rows]), torch.cat([values for _, values in rows])

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        outputs = sum(part.nbytes for part in (self.head, self.projection) if part is not None)
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
    def position_offset(self) -> int:
        """How far real tokens' positions move on."""
        return sum(bound.position_offset for _, bound in self.components)


_LINEAR: dict[type, Category] = {ScaleInput: "input", OwnWeight: "weight", OwnMask: "weight"}

BARE = BoundAdapter(method="base", kind="embed", components=(), head=None)
