"""How many downloads from sources are under way: few, and one of each caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from manyhats.errors import Overloaded

_MOST = 8


class Fetches:
    """The downloads under way. Used on the event loop alone."""

    def __init__(self) -> None:
        self._callers: set[str] = set()

    @contextmanager
    def admitted(self, caller: str) -> Iterator[None]:
        """Counts a caller's download. Raises Overloaded where it has another, or all together are too many."""
        if caller in self._callers:
            raise Overloaded("another download of this caller's is under way; wait until it is done", retry_after=5)
        if len(self._callers) >= _MOST:
            raise Overloaded(f"{_MOST} downloads are under way, which is the most; send it again", retry_after=5)
        self._callers.add(caller)
        try:
            yield
        finally:
            self._callers.discard(caller)
