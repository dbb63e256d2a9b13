"""Adapters in host memory, from which a slot is filled without reading the disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from manyhats.core.adapter import Adapter
from manyhats.core.packed_adapter import PackedAdapter
from manyhats.methods.bound_adapter import BoundAdapter

_MOST = 15  # times that an adapter was asked for, which count: what was popular once must go, too
_LOOKS = 32  # adapters that are spared for one that is removed


@dataclass(slots=True)
class _Entry:
    adapter: Adapter | PackedAdapter | None
    bound: BoundAdapter | None
    size: int
    asked: int


class HostMemory:
    """Up to `limit` bytes of adapters. Those that were put first are removed first, the last one never; but one that
    was asked for again is spared once for each time, so that many that are asked for once do not drive out those that
    are asked for often (the CLOCK of operating systems, with counts).

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
        """Keeps an adapter; others are removed for it. How often it was asked for is kept as it is."""
        asked = self.take(sha256)
        self._put(sha256, _Entry(adapter, None, adapter.nbytes, asked))

    def put_bound(self, sha256: str, bound: BoundAdapter, asked: int = 0) -> None:
        """Keeps a bound adapter, which was asked for again so often; others are removed for it."""
        self.remove(sha256)
        self._put(sha256, _Entry(None, bound, bound.nbytes, min(asked, _MOST)))

    def credit(self, sha256: str, asked: int) -> None:
        """An adapter that may be there was asked for again so often."""
        if (found := self._entries.get(sha256)) is not None:
            found.asked = min(found.asked + asked, _MOST)

    def take(self, sha256: str) -> int:
        """Removes an adapter, if it is there, which stays bound; how often it was asked for."""
        found = self._entries.pop(sha256, None)
        if found is None:
            return 0
        self.used -= found.size
        return found.asked

    def remove(self, sha256: str) -> None:
        """Removes an adapter, if it is there."""
        _, bound = self.get(sha256)
        self.take(sha256)
        if bound is not None:
            self._unbind(bound)

    def _put(self, sha256: str, entry: _Entry) -> None:
        self._entries[sha256] = entry
        self.used += entry.size
        while self.used > self._limit and len(self._entries) > 1:
            self.remove(self._next_to_go(sha256))

    def _next_to_go(self, newest: str) -> str:
        """The first that was not asked for again, or after some that were, the first that then is."""
        for _ in range(_LOOKS):
            sha256, entry = next(iter(self._entries.items()))
            if not entry.asked and sha256 != newest:
                return sha256
            entry.asked = max(entry.asked - 1, 0)
            self._entries.move_to_end(sha256)
        return next(sha256 for sha256 in self._entries if sha256 != newest)
