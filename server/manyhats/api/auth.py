"""Which routes need which scope. Every route declares one, or is among `OPEN`: the application starts with no other.

The key itself was looked at before (`api.middleware.access`). What routes depend on is asynchronous here, though
nothing in it waits: a plain function would be run in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.routing import BaseRoute, Mount, Route

from manyhats.access.identity import Identity
from manyhats.access.scopes import READ
from manyhats.errors import AuthenticationRequired, PermissionDenied

# What everybody may ask for, by method and path, or by the path under which files lie. `/metrics` says more to those
# with the scope `metrics`. The pages and the schema are the same of every server.
OPEN = frozenset(
    {
        *("GET /healthz", "GET /readyz", "GET /health", "GET /ping", "POST /ping"),
        *("GET /v2/health/live", "GET /v2/health/ready"),
        "GET /metrics",
        *("GET /", "/page"),
        *("GET /docs", "GET /redoc", "GET /openapi.json", "/docs/scripts"),
    }
)
IDENTITY, REFUSAL = "identity", "refusal"  # in a request's state


class RequiredScope(HTTPBearer):
    """What routes depend on: a key with any of `scopes`. /openapi.json describes it."""

    def __init__(self, name: str, description: str, scopes: Iterable[str]) -> None:
        super().__init__(scheme_name=name, description=description)
        self.scopes = frozenset(scopes)

    async def __call__(self, request: Request) -> None:  # type: ignore[override]  # no route reads the key
        """Raises AuthenticationRequired without a key, or with a wrong one; PermissionDenied with one that may not do
        this; Overloaded where its quota is used up."""
        state = request.scope["state"]
        if REFUSAL in state:
            raise state[REFUSAL]
        identity: Identity | None = state.get(IDENTITY)
        if identity is not None and identity.scopes & self.scopes:
            return
        needed = " or ".join(f"'{scope}'" for scope in sorted(self.scopes))
        if identity is None or (identity.anonymous and "authorization" not in request.headers):
            raise AuthenticationRequired(
                f"a key with the scope {needed} is needed: send it as 'Authorization: Bearer KEY'"
            )
        # Without figures the page goes on; for all else it asks for another key, which it knows by `param`.
        param = "scope" if self.scopes == {"metrics"} else None
        raise PermissionDenied(f"this key may not do this; one with the scope {needed} may", param=param)


_KEY = "One of the server's `api_keys` or `admin_keys`, a key that `manyhats keys create` made, or a token of the "
_NEEDS = "identity provider. Where the server has no keys, none is needed. "
require_predict = RequiredScope("Key", f"{_KEY}{_NEEDS}Scope `predict`.", {"predict"})
require_read = RequiredScope("ReadKey", f"{_KEY}{_NEEDS}Any of the scopes `predict`, `upload` and `admin`.", READ)
require_upload = RequiredScope("UploadKey", f"{_KEY}{_NEEDS}Scope `upload`.", {"upload"})
require_admin = RequiredScope("AdminKey", f"{_KEY}{_NEEDS}Scope `admin`.", {"admin"})
require_metrics = RequiredScope("MetricsKey", f"{_KEY}{_NEEDS}Scope `metrics`.", {"metrics"})


def sees_figures(request: Request) -> bool:
    """Whether whoever sends this may see figures by task: of all tasks, for a key of some sees no others."""
    identity: Identity | None = request.scope["state"].get(IDENTITY)
    return identity is not None and "metrics" in identity.scopes and identity.caller.tasks is None


def check_declared(routes: Iterable[BaseRoute]) -> None:
    """Raises TypeError for a route that neither declares a scope nor is open, or is both."""
    for route in all_routes(routes):
        names = route_names(route)
        open_ones = {name for name in names if name in OPEN}
        scopes = required_scopes(route)
        if scopes is None and open_ones != names:
            raise TypeError(f"{sorted(names - open_ones)}: the route declares no scope, and is not among the open ones")
        if scopes is not None and open_ones:
            raise TypeError(f"{sorted(open_ones)}: the route declares a scope, and is among the open ones")


def all_routes(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """The routes, and those of the routers among them."""
    for route in routes:
        router = getattr(route, "original_router", None)  # how FastAPI keeps a router that an application includes
        if router is None:
            yield route
        else:
            yield from all_routes(router.routes)


def required_scopes(route: BaseRoute) -> frozenset[str] | None:
    """The scopes of which a route needs one; None where it declares none."""
    found = None
    for dependency in route.dependencies if isinstance(route, APIRoute) else ():
        if isinstance(dependency.dependency, RequiredScope):
            own = dependency.dependency.scopes
            found = own if found is None else found & own
    return found


def route_names(route: BaseRoute) -> set[str]:
    """What a route is called among the open ones: each method with its path, or the path under which files lie."""
    if isinstance(route, Mount):
        return {route.path}
    if isinstance(route, Route | APIRoute):
        return {f"{method} {route.path}" for method in (route.methods or {"GET"}) - {"HEAD"}}
    return {repr(route)}
