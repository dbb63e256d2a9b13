"""An adapter as its files hold it: the components of one or more methods, a head, and what the task is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from manyhats.backbone.sentence import Projection
from manyhats.core.kinds.registry import KINDS, check_head, headless_kinds, kinds_of_head
from manyhats.core.packed_adapter import AdapterContent, PackedAdapter
from manyhats.errors import AdapterMismatch
from manyhats.methods.base import Conflict
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.heads import Head, KindName
from manyhats.methods.placement import placement_on
from manyhats.methods.registry import METHODS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


_MOST_GROWTH = 2  # times the bytes of the files: a file in 16 bits, beside a backbone in 32


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter folder holds, in host memory.

    `matched_tensors`: how many of the file's tensors found their place (all, or reading fails). `settings`: what the
    files say about the task (labels, template, ...). `projection`: what stands behind an embedding's pooling;
    None: what the backbone brings.
    """

    components: tuple[Component[Any], ...]
    head: Head | None
    kind: KindName
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

    @property
    def _lm_head_conflict(self) -> Conflict | None:
        """Why it cannot end in the backbone's language-model head; None where it can."""
        conflicts = (METHODS[part.method].lm_head_conflict for part in self.components)
        return next((conflict for conflict in conflicts if conflict is not None), None)

    def kinds(self, backbone: Backbone) -> tuple[KindName, ...]:
        """What it may be asked for; its own kind is among them."""
        if self.head is None:
            found = headless_kinds(backbone)
            if self._lm_head_conflict is not None:
                found = tuple(kind for kind in found if not KINDS[kind].lm_head)
            return (self.kind, *(kind for kind in found if kind != self.kind))
        return kinds_of_head(self.head)

    def as_kind(self, kind: KindName | None, backbone: Backbone) -> Adapter:
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
        by_method: dict[str, list[Component[Any]]] = {}
        for part in self.components:
            by_method.setdefault(part.method, []).append(part)
        for name, own in by_method.items():
            METHODS[name].check_together(own)
            for other, why in METHODS[name].incompatible_with.items():
                if other in by_method:
                    raise AdapterMismatch(why, param="parts")
        KINDS[self.kind].check_backbone(backbone)
        conflict = self._lm_head_conflict
        if KINDS[self.kind].lm_head and conflict is not None:
            raise AdapterMismatch(conflict.reason, param=conflict.param)
        if self.head is not None:
            check_head(self.head, backbone)

    @torch.inference_mode()
    def bind(self, backbone: Backbone) -> BoundAdapter:
        """The adapter ready to act on the backbone's device.

        On CUDA its tensors may still be on their way there: see `BoundAdapter.arrive`.
        """
        with placement_on(backbone) as placement:
            content = placement.place(self._content(backbone, placement.before))
        return content.bound(backbone, placement.arrival)

    @torch.inference_mode()
    def packed(self, backbone: Backbone) -> Adapter | PackedAdapter:
        """The adapter, bound as far as that can be done in host memory.

        Itself where it needs the backbone's weights, where slots are host memory, and where it would take more there
        than its files do in a wider type: what few numbers describe is made when there is a slot for it.
        """
        grows = self.slot_size(backbone) > _MOST_GROWTH * self.nbytes
        if backbone.device.type != "cuda" or grows or self._reads_weights(backbone):
            return self
        return PackedAdapter(self._content(backbone, lambda component: component))

    def _reads_weights(self, backbone: Backbone) -> bool:
        return any(METHODS[part.method].reads_weights(part, backbone) for part in self.components)

    def _content(self, backbone: Backbone, before: Callable[[Component[Any]], Component[Any]]) -> AdapterContent:
        """What it consists of when it is bound. `before`: puts a component beside the backbone's weights."""
        methods = tuple(METHODS[part.method] for part in self.components)
        parts: list[dict[str, Any]] = []
        for method, part in zip(methods, self.components, strict=True):
            bound = method.bind(before(part) if method.reads_weights(part, backbone) else part, backbone)
            parts.append({field.name: getattr(bound, field.name) for field in fields(bound)})
        return AdapterContent(
            method=self.method,
            methods=methods,
            parts=tuple(parts),
            head=None if self.head is None else self.head.to(backbone.dtype),
            projection=None if self.projection is None else self.projection.to(torch.device("cpu"), backbone.dtype),
            non_causal=any(method.non_causal(part) for method, part in zip(methods, self.components, strict=True)),
        )
