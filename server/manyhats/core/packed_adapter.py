"""An adapter that is bound but for its way to the device: its tensors are views of one allocation in host memory.

So that a slot is filled from host memory by a copy alone, and nothing is converted or packed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from manyhats.backbone.sentence import Projection
from manyhats.methods.arena import Packing, tensors_in, with_tensors
from manyhats.methods.base import BoundComponent, Method
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.copy_stream import Arrival
from manyhats.methods.heads import Head
from manyhats.methods.placement import placement_on
from manyhats.methods.slots import slot_tables

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, eq=False)
class AdapterContent:
    """What a bound adapter consists of, wherever its tensors are. `parts`: the fields of each method's
    `BoundComponent`."""

    method: str
    methods: tuple[Method[Any], ...]
    parts: tuple[dict[str, Any], ...]
    head: Head | None
    projection: Projection | None
    non_causal: bool

    def bound(self, backbone: Backbone, arrival: Arrival | None) -> BoundAdapter:
        """The bound adapter, in a slot of the backbone's tables. The tensors are on its device, or on their way."""
        bound = BoundAdapter(
            method=self.method,
            components=tuple(
                (method, BoundComponent(**own)) for method, own in zip(self.methods, self.parts, strict=True)
            ),
            head=self.head,
            projection=self.projection,
            non_causal=self.non_causal,
            arrival=arrival,
        )
        slot_tables(backbone).slot_of(bound)  # here, and not when a batch waits for it
        return bound


class PackedAdapter:
    """`content`: with all tensors in host memory; it is packed here, and left as it is."""

    def __init__(self, content: AdapterContent) -> None:
        own = [tensor for tensor in tensors_in(content) if tensor.device.type == "cpu" and tensor.nbytes]
        packing = Packing(own)
        arena = torch.empty(packing.nbytes, dtype=torch.uint8)
        views = packing.filled(arena)
        self._content = with_tensors(content, own, views)
        self._packing = Packing(views, arena)

    @property
    def nbytes(self) -> int:
        """Bytes in host memory."""
        return self._packing.nbytes

    def slot_size(self, backbone: Backbone) -> int:
        """Bytes that the adapter will take on the device."""
        return self._packing.nbytes

    @torch.inference_mode()
    def bind(self, backbone: Backbone) -> BoundAdapter:
        """See `Adapter.bind`."""
        with placement_on(backbone) as placement:
            content = placement.place(self._content, self._packing)
        return content.bound(backbone, placement.arrival)
