"""Routes that are asked many times a second: FastAPI's in every declaration, called without its work for each request.

FastAPI solves a route's dependencies, opens exit stacks and walks through every router for each request: three times
what all else costs. A `DirectRoute` takes the request and its path's parameters, and gives a response: all that its
declaration says can be looked up once. `/openapi.json`, wrong methods and URLs by name stay FastAPI's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """A route whose function is called as it is: `async (request, *parameters of the path) -> Response`.

    Its dependencies are asynchronous functions of the request alone, called first, in their order, for what they raise.
    Raises TypeError where a declaration asks for more than that.
    """

    def get_route_handler(self) -> Handler:
        """What answers a request. FastAPI and `DirectRoutes` both call it."""
        checks = [dependency.dependency for dependency in self.dependencies]
        for check in checks:
            _require(self.path, check, {"request"})
        _require(self.path, self.endpoint, {"request", *self.param_convertors})
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            for check in checks:
                await check(request)  # type: ignore[misc]  # was looked at above
            answer: Response = await endpoint(request=request, **request.path_params)
            return answer

        return handle


def _require(path: str, function: Callable[..., Any] | None, parameters: set[str]) -> None:
    """Raises TypeError where a function of the route at `path` is not asynchronous, or takes other parameters."""
    called = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004  # an object's
    if not inspect.iscoroutinefunction(called) or set(inspect.signature(called).parameters) != parameters:
        raise TypeError(f"{path}: a direct route's function is asynchronous and takes {sorted(parameters)}: {function}")


class DirectRoutes:
    """Calls the direct ones of `routes`; all other requests go on to `app`. `application`: what routes know it by."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        application: ASGIApp,
        routes: Iterable[BaseRoute],
        handlers: Mapping[Any, Callable[..., Any]],
    ) -> None:
        self._app = app
        self._application = application
        self._handlers = handlers
        direct = [(route, route.get_route_handler()) for route in routes if isinstance(route, DirectRoute)]
        self._fixed = {
            (method, r.path): (r, h) for r, h in direct for method in r.methods or () if not r.param_convertors
        }
        self._patterns = [(r.methods or set(), r.path_regex, r, h) for r, h in direct if r.param_convertors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        route, handler, scope["path_params"] = found
        scope["app"], scope["endpoint"], scope["route"] = self._application, route.endpoint, route
        request = Request(scope, receive, send)
        try:
            answer = await handler(request)
        except Exception as error:
            answer, expected = await self._failure(request, error)
            if not expected:
                await answer(scope, receive, send)
                raise
        await answer(scope, receive, send)

    def _find(self, scope: Scope) -> tuple[DirectRoute, Handler, dict[str, str]] | None:
        method, path = scope["method"], scope["path"]
        if scope.get("root_path"):  # FastAPI's router knows what to do with it
            return None
        fixed = self._fixed.get((method, path))
        if fixed is not None:
            return *fixed, {}
        for methods, pattern, route, handler in self._patterns:
            if method in methods and (match := pattern.match(path)):
                return route, handler, match.groupdict()
        return None

    async def _failure(self, request: Request, error: Exception) -> tuple[Response, bool]:
        """The answer of the handler that the application has for an error, and whether it is one for errors of its
        sort; the server learns of all others, too. Raises the error where there is none."""
        for cls in type(error).__mro__:
            if (handler := self._handlers.get(cls)) is not None:
                return await handler(request, error), cls is not Exception
        raise error
