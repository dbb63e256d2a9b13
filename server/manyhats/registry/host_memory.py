"""Adapters in host memory, from which a slot is filled without reading the disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from manyhats.core.adapter import Adapter
from manyhats.core.packed_adapter import PackedAdapter
from manyhats.methods.bound_adapter import BoundAdapter


class _Entry(NamedTuple):
    adapter: Adapter | PackedAdapter | None
    bound: BoundAdapter | None
    size: int


class HostMemory:
    """Up to `limit` bytes of adapters; those that were put first are removed first, the last one never.

    An adapter lies there as its files hold it or, where slots are host memory too, bound. `unbind` is called with each
    bound one that is removed. For one thread at a time.
    """

    def __init__(self, limit: int, unbind: Callable[[BoundAdapter], None]) -> None:
        self._limit = limit
        self._unbind = unbind
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # by sha256
        self.used = 0  # bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._entries

    def get(self, sha256: str) -> tuple[Adapter | PackedAdapter | None, BoundAdapter | None]:
        """The adapter as its files hold it, or bound; neither where it is not in memory."""
        found = self._entries.get(sha256)
        return (None, None) if found is None else (found.adapter, found.bound)

    def put(self, sha256: str, adapter: Adapter | PackedAdapter) -> None:
        """Keeps an adapter; others are removed for it."""
        self._put(sha256, _Entry(adapter, None, adapter.nbytes))

    def put_bound(self, sha256: str, bound: BoundAdapter) -> None:
        """Keeps a bound adapter; others are removed for it."""
        self._put(sha256, _Entry(None, bound, bound.nbytes))

    def take(self, sha256: str) -> None:
        """Removes an adapter, if it is there, which stays bound."""
        found = self._entries.pop(sha256, None)
        if found is not None:
            self.used -= found.size

    def remove(self, sha256: str) -> None:
        """Removes an adapter, if it is there."""
        _, bound = self.get(sha256)
        self.take(sha256)
        if bound is not None:
            self._unbind(bound)

    def _put(self, sha256: str, entry: _Entry) -> None:
        self.remove(sha256)
        self._entries[sha256] = entry
        self.used += entry.size
        while self.used > self._limit and len(self._entries) > 1:
            self.remove(next(iter(self._entries)))
