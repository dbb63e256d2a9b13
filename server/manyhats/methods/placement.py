"""Where the tensors of a bound adapter go, all of them together: a copy of their own for each device.

On a CPU into one allocation, the adapter's only copy. On CUDA into one allocation too, by one copy beside the passes
(`methods.copy_stream`). On other devices each by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from manyhats.backbone.quantized_weight import is_quantized
from manyhats.methods.arena import Packing, hiding, in_arena, tensors_in, with_tensors
from manyhats.methods.copy_stream import Arrival, CopyStream, Transfer

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

T = TypeVar("T")


class Placement(Protocol):
    """Places what one adapter consists of. `arrival`: when that is there; None: at once."""

    arrival: Arrival | None

    def before(self, component: T) -> T:
        """A component beside the backbone's weights, for a method that computes with them."""
        ...

    def place(self, bound: T, packing: Packing | None = None) -> T:
        """All that was bound, with its tensors on the device. Called once. `packing`: where those in host memory are
        packed already."""
        ...


@contextmanager
def placement_on(backbone: Backbone) -> Iterator[Placement]:
    """The placement of one adapter, which is bound within the context."""
    if backbone.device.type == "cpu":
        yield _OnHost(backbone)
        return
    if backbone.device.type != "cuda":
        yield _OnDevice(backbone.device)
        return
    stream: CopyStream | None = backbone.kept.get(CopyStream)
    if stream is None:
        stream = backbone.kept.setdefault(CopyStream, CopyStream(backbone.device))
    with stream.transfer() as transfer:
        yield _OnCuda(backbone.device, transfer)


class _OnHost:
    """The backbone's own tensors stay where they are."""

    arrival: Arrival | None = None

    def __init__(self, backbone: Backbone) -> None:
        kept: set[int] | None = backbone.kept.get(_OnHost)
        if kept is None:
            tensors = [*backbone.model.parameters(), *backbone.model.buffers()]
            plain = (tensor for tensor in tensors if not is_quantized(tensor))  # of others nothing has views
            kept = backbone.kept[_OnHost] = {tensor.untyped_storage().data_ptr() for tensor in plain}
        self._own_storages = kept

    def before(self, component: T) -> T:
        return component

    def place(self, bound: T, packing: Packing | None = None) -> T:
        own = [tensor for tensor in tensors_in(bound) if self._moves(tensor)]
        return with_tensors(bound, own, in_arena(own))

    def _moves(self, tensor: Tensor) -> bool:
        """An expanded tensor, which has fewer bytes than values, stays too."""
        storage = tensor.untyped_storage()
        return 0 < tensor.nbytes <= storage.nbytes() and storage.data_ptr() not in self._own_storages


class _OnDevice:
    arrival: Arrival | None = None

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def before(self, component: T) -> T:
        return self.place(component)

    def place(self, bound: T, packing: Packing | None = None) -> T:
        own = [tensor for tensor in _found(bound) if tensor.device.type == "cpu"]
        return with_tensors(bound, own, [tensor.to(self._device) for tensor in own])


class _OnCuda:
    def __init__(self, device: torch.device, transfer: Transfer) -> None:
        self._device = device
        self._transfer = transfer
        self.arrival: Arrival | None = None

    def before(self, component: T) -> T:
        return self._copied(component, tensors_in(component))[0]

    def place(self, bound: T, packing: Packing | None = None) -> T:
        found = _found(bound)
        computed = [tensor for tensor in found if tensor.device.type != "cpu"]
        placed, arena = self._copied(bound, found, packing)
        allocated = [*computed, *([] if arena is None else [arena])]
        self.arrival = Arrival(self._transfer.event, self._device, allocated)
        return placed

    def _copied(self, value: T, tensors: Sequence[Tensor], packing: Packing | None = None) -> tuple[T, Tensor | None]:
        """The value with its tensors, which are in it, on the device; and the arena, where there is one."""
        on_host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        own = [tensor for tensor in on_host if tensor.nbytes]
        empty = [tensor for tensor in on_host if not tensor.nbytes]
        value = with_tensors(value, empty, [tensor.to(self._device) for tensor in empty])
        if not own:
            return value, None
        packing = packing or Packing(own)
        arena = self._transfer.copy(packing)
        return with_tensors(value, packing.tensors, packing.views(arena)), arena


def _found(bound: Any) -> list[Tensor]:
    """All tensors in what was bound. Raises TypeError where an object holds one that cannot be found and moved."""
    opaque = hiding(bound)
    if opaque is not None:
        raise TypeError(f"{opaque.__name__} holds a tensor, but is no frozen dataclass, so it cannot be moved")
    return tensors_in(bound)
