"""Requests must name this server: a page whose own name was made to point here (DNS rebinding) does not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from manyhats.api.errors import response
from manyhats.errors import UnknownHost

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::[0-9]*)?")
_QUOTED = 100  # characters of a header in a message


def host_of(header: str) -> str | None:
    """The name in a `Host` header, in lower case and without its port; None for what is no host."""
    match = _HOST.fullmatch(header.strip())
    return match[1].lower().removesuffix(".") if match else None


class AllowedHosts:
    """Refuses requests whose `Host` is not among `allowed` (`*.example.com`: every name below). None: all may pass.

    The address that a request came to is always right: no page can have it for its name. A request without the header
    passes: it is HTTP/1.0, which no browser speaks.
    """

    def __init__(self, app: ASGIApp, *, allowed: Sequence[str] | None) -> None:
        self._app = app
        self._names = None if allowed is None else frozenset(allowed)
        self._ends = tuple(name[1:] for name in allowed or () if name.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._names is None:
            await self._app(scope, receive, send)
            return
        header = Headers(scope=scope).get("host")
        if header is None or self._allows(host_of(header), scope.get("server")):
            await self._app(scope, receive, send)
            return
        error = UnknownHost(
            f"this server does not answer for the host {header[:_QUOTED]!r}; allowed_hosts names those that it does",
            param="Host",
        )
        await response(error)(scope, receive, send)

    def _allows(self, host: str | None, server: tuple[str, int | None] | None) -> bool:
        assert self._names is not None
        if host is None:
            return False
        return (
            host in self._names or host.endswith(self._ends) or (server is not None and host.strip("[]") == server[0])
        )
