"""Methods and paths as clients write them: HEAD is answered wherever GET is, and a slash at the end means nothing."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SLASHES = re.compile("//+")


class LenientPaths:
    """Leaves out slashes that say nothing, instead of redirecting: a redirect would name a host and a scheme, which a
    proxy may have changed, and many clients do not send a body twice.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            plain = _SLASHES.sub("/", path).rstrip("/") or "/"
            if plain != path:
                scope = {**scope, "path": plain}
        await self._app(scope, receive, send)


class HeadAsGet:
    """Answers HEAD with the headers of GET. The body is not sent, and no more of it is made than its first chunk."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ended = False

        async def headers_alone(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                await send(message)
            elif message["type"] == "http.response.body" and not ended:
                ended = True  # the route then learns that the client reads no more
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"}, receive, headers_alone)
