"""Adapters in host memory, from which a slot is filled without reading the disk."""

from __future__ import annotations

from collections import OrderedDict

from manyhats.core.adapter import Adapter


class HostMemory:
    """Up to `limit` bytes of adapters; those that were put first are removed first, the last one never.

    For one thread at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._adapters: OrderedDict[str, tuple[Adapter, int]] = OrderedDict()  # with its bytes, by sha256
        self.used = 0  # bytes

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._adapters

    def get(self, sha256: str) -> Adapter | None:
        """The adapter, or None where it is not in memory."""
        found = self._adapters.get(sha256)
        return None if found is None else found[0]

    def put(self, sha256: str, adapter: Adapter) -> None:
        """Keeps an adapter; others are removed for it."""
        self.remove(sha256)
        size = adapter.nbytes
        self._adapters[sha256] = adapter, size
        self.used += size
        while self.used > self._limit and len(self._adapters) > 1:
            self.remove(next(iter(self._adapters)))

    def remove(self, sha256: str) -> None:
        """Removes an adapter, if it is there."""
        _, size = self._adapters.pop(sha256, (None, 0))
        self.used -= size
