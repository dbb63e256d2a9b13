"""Bodies are bounded in bytes, each and all together."""

from __future__ import annotations

from starlette.types import Message, Receive

from manyhats.api.middleware.headers import FirstValues
from manyhats.errors import Overloaded, TooLarge

_ALWAYS_READ = 64 << 10  # bytes of a body that are read however much is under way
_TOTAL_FACTOR = 16  # times the limit of one body: what all bodies under way may hold


class BodyLimit:
    """Refuses bodies over `limit` bytes as soon as they are known to be, whether or not they state their length.

    `held`: they stand in memory, and so all of them together are limited too; others are written to files as they come.
    """

    def __init__(self, limit: int, *, held: bool) -> None:
        self.limit = limit
        self._held = held
        self._held_bytes = 0  # bytes of all bodies under way

    def check(self, headers: FirstValues) -> None:
        """Raises TooLarge for a body that is said to be."""
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > self.limit):
            raise self._too_large()

    def counted(self, receive: Receive) -> CountedBody:
        """The messages of a body, counted."""
        return CountedBody(self, receive)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self.limit} bytes", param="body")


class CountedBody:
    """The messages of one body. `release` gives back what it held."""

    def __init__(self, limit: BodyLimit, receive: Receive) -> None:
        self._limit = limit
        self._receive = receive
        self._seen = 0

    async def receive(self) -> Message:
        """The next message. Raises TooLarge, and Overloaded where too much is under way."""
        message = await self._receive()
        size = len(message.get("body", b""))
        limits = self._limit
        self._seen += size
        limits._held_bytes += size
        if self._seen > limits.limit:
            raise limits._too_large()
        if limits._held and limits._held_bytes > _TOTAL_FACTOR * limits.limit and self._seen > _ALWAYS_READ:
            raise Overloaded("the bodies of requests under way fill the memory that is set aside for them")
        return message

    def release(self) -> None:
        """The request has ended."""
        self._limit._held_bytes -= self._seen
