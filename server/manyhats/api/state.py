"""How routes reach what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import Request

if TYPE_CHECKING:
    from manyhats.runtime import Runtime


def runtime_of(request: Request) -> Runtime:
    """The runtime of the application that serves this request."""
    return cast("Runtime", request.app.state.runtime)
