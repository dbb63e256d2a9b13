"""Methods and paths as clients write them: HEAD is answered wherever GET is, and a slash at the end means nothing."""

from __future__ import annotations

import re

from starlette.types import Message, Send

_SLASHES = re.compile("//+")


def lenient_path(path: str) -> str:
    """A path without the slashes that say nothing.

    A redirect would name a host and a scheme, which a proxy may have changed; many clients do not send a body twice.
    """
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/"


def headers_alone(send: Send) -> Send:
    """Sends the headers of an answer to GET. No more of its body is made than the first chunk."""
    ended = False

    async def sent(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            await send(message)
        elif message["type"] == "http.response.body" and not ended:
            ended = True  # the route then learns that the client reads no more
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return sent
