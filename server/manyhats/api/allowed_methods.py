"""What a path takes: the `Allow` of an answer that refuses a method."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route


def allowed_methods(routes: Sequence[BaseRoute], path: str) -> list[str]:
    """The methods of all routes at `path`, which may be several: starlette names those of the first alone.

    Where GET is one of them, so is HEAD.
    """
    methods = {
        method
        for route in routes
        if isinstance(route, Route) and route.path_regex.match(path)
        for method in route.methods or ()
    }
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
