"""Arrays that a pass needs on the device, prepared on the host and copied together.

Each separate copy costs a launch, and a copy from pageable memory blocks the host on CUDA. So all arrays are put into
one buffer, which is copied once, from page-locked memory where available.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_WORD = 8  # bytes; every array begins at a multiple, so that a view of any type is aligned
_RING = 3  # page-locked buffers: the host prepares a pass while earlier copies may still be running


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

    On CUDA it is a ring of page-locked buffers. A buffer is not reused before the event of its last copy,
    for which the host waits only if the device is `_RING` passes behind.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pinned = device.type == "cuda" and torch.cuda.is_available()
        self._buffers: list[Tensor] = [torch.empty(0, dtype=torch.long)] * _RING
        self._copied: list[torch.cuda.Event | None] = [None] * _RING
        self._next = 0

    def copy(self, words: int, fill: Any, into: Tensor | None = None) -> Tensor:
        """`words` int64 on the device, which `fill(host)` has written into host memory (words,). `into`: the memory on
        the device, (words,); None: new memory."""
        if not self._pinned:
            host = np.empty(words, dtype=np.int64)
            fill(host)
            made = torch.from_numpy(host)
            return made.to(self.device) if into is None else into.copy_(made)  # on the CPU `to` copies nothing
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
        if into is not None:
            on_device = into.copy_(buffer, non_blocking=True)
        else:  # a batch may be prepared while another one waits for its pass
            on_device = buffer.to(self.device, non_blocking=True)
        copied = self._copied[current] = copied or torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return on_device


class StagingBuffer:
    """Named arrays that are copied to the device together: `put` all of them, then `commit`, then read them there.

    Any code that prepares a pass may put arrays before the commit.
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
        self._words += _words(given)

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
        """The array as it was put, in host memory."""
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
            words = self._on_device[begin : begin + _words(array)]
            if array.dtype != np.int64:
                words = words.view(_TYPES[array.dtype])[: array.size]
            found = self._views[name] = words.view(array.shape)
        return found


class FixedStagingBuffer(StagingBuffer):
    """The same for many passes, one after the other, each begun by `begin`: arrays that are put before `seal` have one
    place on the device, where what is captured with them finds those of its replay. Arrays after it are a pass's own.

    `memory`: (words,) int64 on the device, which several buffers may share if their passes take turns. `growing`: the
    array before `seal` whose length differs from pass to pass; there it reaches to the memory's end.
    """

    def __init__(self, buffers: HostBuffers, memory: Tensor, growing: str) -> None:
        super().__init__(buffers)
        self._memory = memory
        self._growing = growing
        self._fixed: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]] | None = None

    def begin(self) -> None:
        """Begins a pass. What the last one put is gone."""
        self._arrays, self._offsets, self._views = {}, {}, {}
        self._words = 0
        self._on_device = None

    def seal(self) -> bool:
        """Ends the arrays that have one place. Returns whether they have the names, shapes and types of the first pass,
        and fit into the memory: else they must not be committed."""
        late = self._arrays.pop(self._growing, None)
        if late is not None:  # behind the others, whose places must not depend on its length
            del self._offsets[self._growing]
            self._words = 0
            for name, array in self._arrays.items():
                self._offsets[name] = self._words
                self._words += _words(array)
        fixed = {name: (self._offsets[name], array.shape, array.dtype) for name, array in self._arrays.items()}
        if late is not None:
            fixed[self._growing] = (self._words, (), late.dtype)
            self._arrays[self._growing] = late
            self._offsets[self._growing] = self._words
            self._words += _words(late)
        if self._fixed is None and self.fits:
            self._fixed = fixed
        return fixed == self._fixed and self.fits

    @property
    def fits(self) -> bool:
        """Whether the memory has space for all arrays so far."""
        return self._words <= len(self._memory)

    def commit(self) -> None:
        """See `StagingBuffer.commit`. Raises ValueError where not all arrays fit."""
        if self._on_device is not None:
            raise ValueError("the buffer has been copied to the device already")
        if not self.fits:
            raise ValueError(f"{self._words} words do not fit into {len(self._memory)}")
        self._buffers.copy(self._words, self._fill, self._memory[: self._words])
        self._on_device = self._memory

    def __getitem__(self, name: str) -> Tensor:
        if name != self._growing or self._on_device is None:
            return super().__getitem__(name)
        found = self._memory[self._offsets[name] :]
        dtype = self._arrays[name].dtype
        return found if dtype == np.int64 else found.view(_TYPES[dtype])


def _words(array: NDArray[Any]) -> int:
    return -(-array.nbytes // _WORD)
