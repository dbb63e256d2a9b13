"""Page-locked host memory for copies to a device, for which the host need not wait. It is bounded and used again."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LIMIT = 256 << 20  # bytes
_SMALLEST = 64 << 10  # bytes of a buffer


@dataclass(eq=False, slots=True)
class PinnedBuffer:
    """Used for one transfer at a time. `copied`: when what was copied from it last is on the device."""

    memory: Tensor
    taken: bool = True
    copied: torch.cuda.Event | None = None

    @property
    def free(self) -> bool:
        """Whether it can be written to."""
        return not self.taken and (self.copied is None or self.copied.query())  # type: ignore[no-untyped-call]


class PinnedMemory:
    """Buffers of `limit` bytes in all. Safe from any thread; nobody waits for one.

    Sizes are powers of two, as torch rounds them too, and a buffer only gives way to a larger one. So what torch keeps
    of those that were given up is no more than there is.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._buffers: list[PinnedBuffer] = []
        self._refused = False  # the system has given none

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(len(buffer.memory) for buffer in self._buffers)

    def take(self, size: int) -> PinnedBuffer | None:
        """A buffer of so many bytes or more, until `give_back`; None where there is none to be had now."""
        with self._lock:
            free = sorted((one for one in self._buffers if one.free), key=lambda one: len(one.memory))
            for buffer in free:
                if len(buffer.memory) >= size:
                    buffer.taken = True
                    return buffer
            wanted = max(1 << max(size - 1, 0).bit_length(), _SMALLEST)
            if self._refused or self.nbytes - sum(len(one.memory) for one in free) + wanted > self._limit:
                return None
            while self.nbytes + wanted > self._limit:
                self._buffers.remove(free.pop(0))
            try:
                memory = torch.empty(wanted, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as error:  # copies wait from now on, and are right all the same
                logger.warning("no page-locked memory, so adapters take longer to the device: %s", error)
                self._refused = True
                return None
            buffer = PinnedBuffer(memory)
            self._buffers.append(buffer)
            return buffer

    def give_back(self, buffer: PinnedBuffer, copied: torch.cuda.Event) -> None:
        """Lets a buffer be used again after this event."""
        buffer.copied = copied
        buffer.taken = False
