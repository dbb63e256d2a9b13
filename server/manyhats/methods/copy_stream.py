"""Copies of adapters to a CUDA device, beside the passes: on a stream of its own, from page-locked memory.

Loading threads put a copy into the stream and go on. The pass that first uses an adapter has its own stream wait for
the adapter's event. Device memory is allocated in the copy stream, to whose pool it returns. The stream that uses it is
recorded (`Tensor.record_stream`): when the last reference has gone, torch's allocator puts an event into that stream,
and gives the memory to the next adapter only after it. So eviction neither waits nor watches, and no step that is still
running reads another adapter's weights.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from manyhats.methods.arena import Packing
from manyhats.methods.pinned_memory import PinnedBuffer, PinnedMemory


class Arrival:
    """When an adapter's tensors are on the device. `tensors`: those that were allocated for it."""

    def __init__(self, event: torch.cuda.Event, device: torch.device, tensors: Sequence[Tensor]) -> None:
        self._event = event
        self._device = device
        self._tensors = tensors
        self._lock = threading.Lock()

    def wait_on_stream(self) -> None:
        """Has the current stream wait, and keeps the memory until what the stream does with it has ended.

        Once: later calls do nothing. What another stream does with the tensors must be ordered behind this one's work.
        """
        with self._lock:
            tensors, self._tensors = self._tensors, ()
        if tensors:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._event)
            for tensor in tensors:
                tensor.record_stream(stream)

    def wait(self) -> None:
        """Has the calling thread wait. For the threads that load: no step then waits for a copy."""
        self._event.synchronize()


class Transfer:
    """The copies of one adapter, in the copy stream, which is the current one meanwhile."""

    def __init__(self, device: torch.device, pinned: PinnedMemory) -> None:
        self._device = device
        self._pinned = pinned
        self._buffers: list[PinnedBuffer] = []
        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # who waits for it sleeps

    def copy(self, packing: Packing) -> Tensor:
        """The packed tensors' values in one new allocation on the device (nbytes,), after one copy.

        The host waits for it only where there is no page-locked memory.
        """
        arena = torch.empty(packing.nbytes, dtype=torch.uint8, device=self._device)
        buffer = self._pinned.take(packing.nbytes)
        if buffer is None:
            host = torch.empty(packing.nbytes, dtype=torch.uint8)
        else:
            self._buffers.append(buffer)
            host = buffer.memory[: packing.nbytes]
        packing.filled(host)
        arena.copy_(host, non_blocking=buffer is not None)
        return arena

    def end(self) -> None:
        """Records the event, behind all that the copy stream was given."""
        self.event.record()
        for buffer in self._buffers:
            self._pinned.give_back(buffer, self.event)


class CopyStream:
    """The copy stream of one device. For any number of threads."""

    def __init__(self, device: torch.device, pinned: PinnedMemory | None = None) -> None:
        self._device = device
        self._pinned = PinnedMemory() if pinned is None else pinned
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # What methods compute of the backbone's weights reads them after they were put there.
        self._stream.wait_stream(torch.cuda.default_stream(device))

    @contextmanager
    def transfer(self) -> Iterator[Transfer]:
        """The copies of one adapter; torch's current stream is the copy stream meanwhile."""
        with torch.cuda.stream(self._stream):
            transfer = Transfer(self._device, self._pinned)
            try:
                yield transfer
            finally:
                transfer.end()


def in_passes_order(device: torch.device) -> AbstractContextManager[object]:
    """Where what several adapters share is made while one is bound: in the stream of the passes, which is the default
    one, so that its memory is used again in their order."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.default_stream(device))
