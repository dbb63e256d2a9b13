"""Requests must name this server: a page whose own name was made to point here (DNS rebinding) does not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.types import Scope

from manyhats.api.middleware.headers import FirstValues
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

    def __init__(self, allowed: Sequence[str] | None) -> None:
        # Most requests name the server as the one before did.
        self._last_allowed: tuple[bytes, tuple[str, int | None] | None] | None = None
        self._names = None if allowed is None else frozenset(allowed)
        self._ends = tuple(name[1:] for name in allowed or () if name.startswith("*."))

    def check(self, scope: Scope, headers: FirstValues) -> None:
        """Raises UnknownHost for a request to another one."""
        header = headers.get(b"host")
        if self._names is None or header is None or (header, scope.get("server")) == self._last_allowed:
            return
        host = header.decode("latin-1")
        if not self._allows(host_of(host), scope.get("server")):
            raise UnknownHost(
                f"this server does not answer for the host {host[:_QUOTED]!r}; allowed_hosts names those that it does",
                param="Host",
            )
        self._last_allowed = header, scope.get("server")

    def _allows(self, host: str | None, server: tuple[str, int | None] | None) -> bool:
        assert self._names is not None
        if host is None:
            return False
        return (
            host in self._names or host.endswith(self._ends) or (server is not None and host.strip("[]") == server[0])
        )
