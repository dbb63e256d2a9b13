"""A request's headers, looked through once."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

FirstValues = Mapping[bytes, bytes]  # of each header, by its name in lower case


def first_values(scope: Scope) -> FirstValues:
    """The first value of each header."""
    return dict(reversed(scope["headers"]))


def all_values(scope: Scope, headers: FirstValues, name: bytes) -> list[str]:
    """Every value of the header `name`, in order. `headers`: the request's first values."""
    if name not in headers:
        return []
    if len(headers) == len(scope["headers"]):
        return [headers[name].decode("latin-1")]
    return [value.decode("latin-1") for other, value in scope["headers"] if other == name]
