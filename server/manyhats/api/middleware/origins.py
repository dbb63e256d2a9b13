"""Pages of other sites may not ask or change anything from a visitor's browser, unless `cors_origins` names them.

The rule is that of Go's `http.CrossOriginProtection`. A browser says what sort of page sends a request: in
`Sec-Fetch-Site`, which no page can set, or, where it leaves that out, in `Origin`. Other clients send neither and pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope

from manyhats.api.middleware.headers import FirstValues
from manyhats.errors import PermissionDenied

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # they change nothing, and a page elsewhere cannot read their answers
_QUOTED = 200  # characters of a header in a message


class SameOrigin:
    """Refuses what a browser sends for a page of another origin, but for those in `trusted` (`*`: all)."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = frozenset(trusted)

    def check(self, scope: Scope, headers: FirstValues) -> None:
        """Raises PermissionDenied for what such a page sends."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        if (origin is None and site is None) or scope["method"] in _SAFE or "*" in self._trusted:
            return
        page = None if origin is None else origin.decode("latin-1")
        if not self._allows(page, site, headers):
            whose = f"the page {page[:_QUOTED]!r}" if page else "a page of another site"
            raise PermissionDenied(
                f"{whose} may not do this from a browser; cors_origins names the origins whose pages may",
                param="Origin",
            )

    def _allows(self, origin: str | None, site: bytes | None, headers: FirstValues) -> bool:
        if origin is not None and origin.lower() in self._trusted:
            return True
        if site is not None:
            # A proxy may have put another name into Host: the browser knows better.
            return site in (b"same-origin", b"none")
        if origin is None:
            return True
        own = origin.lower().partition("://")[2]  # without the scheme: a proxy may speak TLS before us
        return own != "" and own == headers.get(b"host", b"").decode("latin-1").strip().lower()
