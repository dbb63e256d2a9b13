"""Bodies are bounded in bytes, each and all together."""

from __future__ import annotations

from starlette.types import Message, Receive

from manyhats.api.middleware.headers import FirstValues
from manyhats.errors import Overloaded, TooLarge

_ALWAYS_READ = 64 << 10  # bytes of a body that are read however much is under way
_TOTAL_FACTOR = 16  # times the limit of one body: what all bodies under way may hold
_CLIENT_FACTOR = 4  # the same, of one client's


class BodyLimit:
    """Refuses bodies over `limit` bytes as soon as they are known to be, whether or not they state their length.

    `held`: they stand in memory, and so all of them together are limited too; others are written to files as they come.
    """

    def __init__(self, limit: int, *, held: bool) -> None:
        self.limit = limit
        self._held = held
        self._held_bytes = 0  # bytes of all bodies under way
        self._held_by: dict[str, int] = {}  # the same, by client

    def check(self, headers: FirstValues) -> None:
        """Raises TooLarge for a body that is said to be."""
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and (len(length) > 18 or int(length) > self.limit):
            raise self._too_large()

    def counted(self, receive: Receive, client: str) -> CountedBody:
        """The messages of a client's body, counted."""
        return CountedBody(self, receive, client)

    def hold(self, client: str, size: int) -> None:
        """So many bytes more of a client's, or fewer."""
        self._held_bytes += size
        held = self._held_by.get(client, 0) + size
        if held:
            self._held_by[client] = held
        else:
            self._held_by.pop(client, None)

    def check_held(self, client: str) -> None:
        """Raises Overloaded where the bodies under way are too much, of all or of this client."""
        if not self._held:
            return
        if self._held_bytes > _TOTAL_FACTOR * self.limit:
            raise Overloaded("the bodies of requests under way fill the memory that is set aside for them")
        if self._held_by.get(client, 0) > _CLIENT_FACTOR * self.limit:
            raise Overloaded(
                f"the bodies of this client's requests under way have more than {_CLIENT_FACTOR * self.limit} bytes"
            )

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self.limit} bytes", param="body")


class CountedBody:
    """The messages of one body. `release` gives back what it held."""

    def __init__(self, limit: BodyLimit, receive: Receive, client: str) -> None:
        self._limit = limit
        self._client = client
        self._receive = receive
        self._seen = 0

    async def receive(self) -> Message:
        """The next message. Raises TooLarge, and Overloaded where too much is under way."""
        message = await self._receive()
        size = len(message.get("body", b""))
        limits = self._limit
        self._seen += size
        limits.hold(self._client, size)
        if self._seen > limits.limit:
            raise limits._too_large()
        if self._seen > _ALWAYS_READ:
            limits.check_held(self._client)
        return message

    def release(self) -> None:
        """The request has ended."""
        self._limit.hold(self._client, -self._seen)
