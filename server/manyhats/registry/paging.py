"""Pages of sorted names of tasks or folders, and the tokens that lead from one to the next."""

from __future__ import annotations

import base64
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

from manyhats.errors import InvalidRequest


def page_of(names: Sequence[str], limit: int, page_token: str | None) -> tuple[list[str], str | None]:
    """At most `limit` of the names (sorted) behind the token's, and the token of the next page.

    Raises InvalidRequest for a token that was not given here.
    """
    start = _start(names, page_token)
    page = list(names[start : start + limit])
    return page, token_after(page[-1]) if start + limit < len(names) else None


class SortedNames(Sequence[str]):
    """Names in order, of which a page costs the same however many there are. For one thread at a time.

    A search looks through one text with all names, at the speed of C, from where its page begins to where it is full.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = sorted(names)
        self._text: tuple[str, array[int]] | None = None  # all names in lower case, and where each begins

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, index: Any) -> Any:
        return self._names[index]

    def add(self, name: str) -> None:
        """Adds a name that is not among them."""
        insort(self._names, name)
        self._text = None

    def discard(self, name: str) -> None:
        """Takes a name away, if it is there."""
        at = bisect_left(self._names, name)
        if at < len(self._names) and self._names[at] == name:
            del self._names[at]
            self._text = None

    def around(self, name: str, count: int) -> list[str]:
        """At most so many names, as many before as after the place where this one is, or would be."""
        start = max(min(bisect_left(self._names, name) - count // 2, len(self._names) - count), 0)
        return self._names[start : start + count]

    def page(self, limit: int, page_token: str | None, search: str = "") -> tuple[list[str], str | None]:
        """As `page_of`; with `search`, of the names that contain it, in whatever case. Raises InvalidRequest."""
        if not search:
            return page_of(self._names, limit, page_token)
        found = list(islice(self._containing(search.lower(), _start(self._names, page_token)), limit + 1))
        page = found[:limit]
        return page, token_after(page[-1]) if len(found) > limit else None

    def _containing(self, wanted: str, start: int) -> Iterator[str]:
        """The names from the one at `start` on that contain a text, which is in lower case."""
        if "\n" in wanted:  # between names there are such
            return
        if self._text is None:
            lowered = [name.lower() for name in self._names]
            self._text = "\n".join(lowered), array("q", accumulate((len(n) + 1 for n in lowered), initial=0))
        text, begins = self._text
        while (at := text.find(wanted, begins[start])) >= 0:
            found = bisect_right(begins, at) - 1
            yield self._names[found]
            start = found + 1


def _start(names: Sequence[str], page_token: str | None) -> int:
    return bisect_right(names, _decode(page_token)) if page_token else 0


def token_after(name: str) -> str:
    """The token of the page that begins behind a name."""
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
