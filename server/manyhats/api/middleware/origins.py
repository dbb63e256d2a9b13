"""Pages of other sites may not ask or change anything from a visitor's browser, unless `cors_origins` names them.

The rule is that of Go's `http.CrossOriginProtection`. A browser says what sort of page sends a request: in
`Sec-Fetch-Site`, which no page can set, or, where it leaves that out, in `Origin`. Other clients send neither and pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from manyhats.api.errors import response
from manyhats.errors import PermissionDenied

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # they change nothing, and a page elsewhere cannot read their answers
_QUOTED = 200  # characters of a header in a message


class SameOrigin:
    """Refuses what a browser sends for a page of another origin, but for those in `trusted` (`*`: all)."""

    def __init__(self, app: ASGIApp, *, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = frozenset(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE:
            headers = Headers(scope=scope)
            if not self._allows(headers):
                page = headers.get("origin")
                whose = f"the page {page[:_QUOTED]!r}" if page else "a page of another site"
                error = PermissionDenied(
                    f"{whose} may not do this from a browser; cors_origins names the origins whose pages may",
                    param="Origin",
                )
                await response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _allows(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if "*" in self._trusted or (origin is not None and origin.lower() in self._trusted):
            return True
        site = headers.get("sec-fetch-site")
        if site is not None:
            # A proxy may have put another name into Host: the browser knows better.
            return site in ("same-origin", "none")
        if origin is None:
            return True
        own = origin.lower().partition("://")[2]  # without the scheme: a proxy may speak TLS before us
        return own != "" and own == headers.get("host", "").strip().lower()
