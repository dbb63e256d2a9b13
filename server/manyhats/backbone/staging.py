"""What a pass needs on the device, laid out on the host and copied at once.

Every array that a pass needs costs a launch if it is copied by itself, and a copy from ordinary memory makes the host
wait on CUDA. So all of them are put into one buffer, which is copied once, from page-locked memory where there is some.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_WORD = 8  # bytes; every array begins at a multiple, so that a view of any type is aligned
_RING = 3  # page-locked buffers: the host lays out the next pass while the copy of the last one may be under way


_TYPES = {
    np.dtype(np.int64): torch.int64,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.bool_): torch.bool,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}


class HostBuffers:
    """Host memory for the copies to one device; used by one thread.

    On CUDA it is a ring of page-locked buffers. A buffer is not written to before the copy that reads it is
    over: an event tells, for which nobody waits unless the device is `_RING` passes behind.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pinned = device.type == "cuda" and torch.cuda.is_available()
        self._buffers: list[Tensor] = [torch.empty(0, dtype=torch.long)] * _RING
        self._copied: list[torch.cuda.Event | None] = [None] * _RING
        self._next = 0

    def copy(self, words: int, fill: Any) -> Tensor:
        """`words` int64 on the device, which `fill(host)` has written into host memory (words,)."""
        if not self._pinned:
            host = np.empty(words, dtype=np.int64)
            fill(host)
            return torch.from_numpy(host).to(self.device)  # on the CPU itself there is nothing to copy
        current = self._next
        self._next = (current + 1) % _RING
        copied = self._copied[current]
        if copied is not None and not copied.query():  # type: ignore[no-untyped-call]
            copied.synchronize()
        if self._buffers[current].numel() < words:
            self._buffers[current] = torch.empty(
                max(words, 2 * self._buffers[current].numel()), dtype=torch.long
            ).pin_memory()
        buffer = self._buffers[current][:words]
        fill(buffer.numpy())
        # Memory of its own for each pass: a batch may be laid out while another one waits for its pass.
        on_device = buffer.to(self.device, non_blocking=True)
        copied = self._copied[current] = copied or torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return on_device


class StagingBuffer:
    """Named arrays that go to the device together: `put` as many as there are, then `commit`, then read them there.

    Whoever lays out a part of a pass may put more into it before it is committed.
    """

    def __init__(self, buffers: HostBuffers) -> None:
        self._buffers = buffers
        self._arrays: dict[str, NDArray[Any]] = {}
        self._offsets: dict[str, int] = {}  # words
        self._words = 0
        self._on_device: Tensor | None = None
        self._views: dict[str, Tensor] = {}

    def put(self, name: str, array: ArrayLike) -> None:
        """An array of any shape; Python's whole numbers become int64. It must stay as it is until `commit`.

        Raises ValueError where the name is taken, everything has been copied, or the type is none of `_TYPES`.
        """
        if self._on_device is not None:
            raise ValueError(f"'{name}' comes too late: the buffer has been copied to the device")
        if name in self._arrays:
            raise ValueError(f"'{name}' is in the buffer already")
        given = np.ascontiguousarray(array)
        if given.dtype not in _TYPES:
            known = ", ".join(str(kind) for kind in _TYPES)
            raise ValueError(f"'{name}' has the type {given.dtype}; these can be copied: {known}")
        self._arrays[name] = given
        self._offsets[name] = self._words
        self._words += -(-given.nbytes // _WORD)

    def commit(self) -> None:
        """Copies everything to the device, once. Raises ValueError the second time."""
        if self._on_device is not None:
            raise ValueError("the buffer has been copied to the device already")
        self._on_device = self._buffers.copy(self._words, self._fill)

    def _fill(self, host: NDArray[np.int64]) -> None:
        every = host.view(np.uint8)
        for name, array in self._arrays.items():
            begin = self._offsets[name] * _WORD
            every[begin : begin + array.nbytes] = array.reshape(-1).view(np.uint8)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def host(self, name: str) -> NDArray[Any]:
        """The array as it was put, without asking the device for it."""
        return self._arrays[name]

    def get(self, name: str) -> Tensor | None:
        """The array on the device; None if not put."""
        return self[name] if name in self._arrays else None

    def __getitem__(self, name: str) -> Tensor:
        """The array on the device, in its shape and type. Raises ValueError before `commit`, KeyError if not put."""
        found = self._views.get(name)
        if found is None:
            if self._on_device is None:
                raise ValueError(f"'{name}' is not on the device yet: the buffer has not been committed")
            array = self._arrays[name]
            begin = self._offsets[name]
            words = self._on_device[begin : begin + -(-array.nbytes // _WORD)]
            if array.dtype != np.int64:
                words = words.view(_TYPES[array.dtype])[: array.size]
            found = self._views[name] = words.view(array.shape)
        return found
