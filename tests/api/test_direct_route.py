"""Routes that FastAPI declares and does not run: their declarations are checked, and so is each request."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from typing import Any

import pytest
from fastapi import APIRouter, Depends, Request, Response
from manyhats.api import huggingface, kserve, lorax, lorax_pooled, openai, predict, sagemaker, tei, vllm
from manyhats.api.app import create_app
from manyhats.api.direct_route import DirectRoute
from manyhats.runtime import Runtime
from manyhats.settings import Settings

from tests.api.live import Live, assert_error, serving
from tests.api.middleware.asgi import Asked, pieces, scope

MOST_CALLS = 90  # of Python functions: all that one request costs but for its route, whose turn it is included


def direct_routes() -> list[DirectRoute]:
    others = (*openai.routers, *vllm.routers, *tei.routers, *huggingface.routers, *kserve.routers)
    routers = (predict.router, *others, sagemaker.router, lorax_pooled.router, lorax.router)
    return [route for router in routers for route in router.routes if isinstance(route, DirectRoute)]


def test_what_is_asked_often_is_direct() -> None:
    assert {route.path for route in direct_routes()} >= {
        "/v1/tasks/{task}/predict",
        "/v1/predict",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/classify",
        "/generate",
        "/generate_stream",
        "/",
    }


def test_each_refuses_without_a_key(served, tmp_path) -> None:
    with serving(served, tmp_path / "store", api_keys="secret") as live:
        for route in direct_routes():
            for method, key in itertools.product(route.methods or (), (None, "Bearer wrong", "secret")):
                headers = {} if key is None else {"Authorization": key}
                answer = live.client.request(method, route.path.replace("{task}", "base"), json={}, headers=headers)
                assert answer.status_code == 401, route.path
        answer = live.client.post("/v1/predict", json={}, headers={"Authorization": "Bearer secret"})
        assert_error(answer, 400)


def test_they_stand_in_the_schema_and_take_no_other_method(live: Live) -> None:
    paths = live.client.get("/openapi.json").json()["paths"]
    for route in direct_routes():
        assert {method.upper() for method in paths[route.path]} >= (route.methods or set())
        assert live.client.put(route.path.replace("{task}", "base")).status_code == 405


def test_a_declaration_that_asks_for_more_is_refused() -> None:
    async def needs_more(request: Request, other: str) -> None: ...

    async def good(request: Request) -> Response:
        return Response()

    def blocking(request: Request) -> Response:
        return Response()

    async def typed(request: Request, limit: int) -> Response:
        return Response()

    for endpoint, dependencies in (
        (good, [Depends(needs_more)]),
        (blocking, []),
        (typed, []),
        (good, [Depends(blocking)]),
    ):
        router = APIRouter(route_class=DirectRoute, dependencies=dependencies)
        with pytest.raises(TypeError, match="/x"):
            router.post("/x")(endpoint)


def test_one_request_costs_few_calls(served, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted between the server and the route, both ways."""

    async def stub(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    router = APIRouter(route_class=DirectRoute, dependencies=predict.router.dependencies)
    router.post("/v1/predict")(stub)
    monkeypatch.setattr(predict, "router", router)
    app = create_app(Runtime(Settings(store=tmp_path / "s", api_keys="k"), backbone=served))
    body = json.dumps({"inputs": "w1"}).encode()
    headers = {"host": "localhost", "content_type": "application/json", "authorization": "Bearer k"}
    called: list[str] = []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    async def ask() -> Asked:
        asked = Asked(pieces([body]))
        await app(scope(**headers, content_length=str(len(body)), accept="*/*"), asked.receive, asked.send)
        return asked

    async def story() -> Asked:
        await ask()  # builds what is built once
        sys.setprofile(profile)
        try:
            return await ask()
        finally:
            sys.setprofile(None)

    asked = asyncio.run(story())
    assert asked.status == 200
    assert asked.sent[1]["body"] == body
    assert len(called) <= MOST_CALLS, called
    assert not [name for name in called if "solve_dependencies" in name or "AsyncExitStack" in name]
