"""Pages of sorted names of tasks or folders, and the tokens that lead from one to the next."""

from __future__ import annotations

import base64
from bisect import bisect_right
from collections.abc import Sequence

from manyhats.errors import InvalidRequest


def page_of(names: Sequence[str], limit: int, page_token: str | None) -> tuple[list[str], str | None]:
    """At most `limit` of the names (sorted) behind the token's, and the token of the next page.

    Raises InvalidRequest for a token that was not given here.
    """
    start = bisect_right(names, _decode(page_token)) if page_token else 0
    page = list(names[start : start + limit])
    return page, _encode(page[-1]) if start + limit < len(names) else None


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode(errors="surrogateescape")).decode().rstrip("=")


def _decode(token: str) -> str:
    try:
        padded = token.encode() + b"=" * (-len(token) % 4)
        name = base64.b64decode(padded, altchars=b"-_", validate=True).decode(errors="surrogateescape")
    except ValueError:
        name = ""
    if not name or "/" in name or "\0" in name:
        raise InvalidRequest("page_token is not one that this server gave", param="page_token")
    return name
