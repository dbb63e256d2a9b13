"""Every route is closed but for those that are listed as open, and a key sees its own tasks alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from manyhats.access.keys import KeyFile
from manyhats.access.scopes import SCOPES
from manyhats.api.app import create_app
from manyhats.api.auth import (
    OPEN,
    all_routes,
    check_declared,
    require_admin,
    require_read,
    required_scopes,
    route_names,
)
from starlette.routing import BaseRoute, Mount

from tests.api.live import Live, adapter_files, assert_error, serving
from tests.waiting import wait_until

VALUES = {"task": "no-such-task", "number": "1", "alias": "x", "pipeline": "fill-mask", "model": "no-such-task"}
MINE, THEIRS = "a-spam", "b-spam"

Keys = dict[str, str]


def make_keys(store: Path) -> Keys:
    """A key of each scope and two tenants' keys with all of them, by their names."""
    file = KeyFile(store / ".manyhats" / "keys.json")
    keys = {scope: file.create(scope, scopes=[scope])[1] for scope in SCOPES}
    for tenant in ("a", "b"):
        keys[tenant] = file.create(tenant, scopes=SCOPES, tenant=f"tenant-{tenant}", namespace=f"{tenant}-")[1]
    keys["expired"] = file.create("expired", scopes=SCOPES, expires=time.time() - 1)[1]
    keys["revoked"] = file.create("revoked", scopes=SCOPES)[1]
    file.revoke("revoked")
    keys["wrong"] = keys["a"][:-4] + "AAAA"
    keys["unknown"] = "mh_nobody-000000_" + "x" * 43
    return keys


def with_key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


class Locked:
    """A server with keys, and a task of each of two tenants."""

    def __init__(self, live: Live, keys: Keys) -> None:
        self.live = live
        self.keys = keys
        for tenant, task in (("a", MINE), ("b", THEIRS)):
            with live.new_client(headers=with_key(keys[tenant])) as client:
                answer = live.upload(task, adapter_files(live.backbone), client=client)
                assert answer.status_code == 201, answer.text
        live.wait_loaded()

    def ask(self, key: str | None, method: str, path: str, **given: Any) -> httpx.Response:
        """Sends a request with the key of that name."""
        headers = with_key(None if key is None else self.keys[key])
        return self.live.client.request(method, path, headers=headers, **given)

    def routes(self) -> list[BaseRoute]:
        """Every route of the application."""
        return list(all_routes(create_app(self.live.runtime).routes))


@pytest.fixture(scope="module")
def locked(served, tmp_path_factory) -> Iterator[Locked]:
    store = tmp_path_factory.mktemp("locked") / "store"
    keys = make_keys(store)
    with serving(served, store) as live:
        yield Locked(live, keys)


def filled(path: str, **values: str) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda m: (VALUES | values)[m[1]], path)


def asked(route: BaseRoute) -> list[tuple[str, str]]:
    """Each method of a route with an address of it; HEAD beside GET."""
    if isinstance(route, Mount):
        return [("GET", f"{route.path}/nothing"), ("HEAD", f"{route.path}/nothing")]
    methods = sorted(set(route.methods or {"GET"}) - {"HEAD"})
    return [(one, filled(route.path)) for one in [*methods, *(["HEAD"] if "GET" in methods else [])]]


def closed(locked: Locked) -> list[tuple[BaseRoute, frozenset[str]]]:
    return [(route, scopes) for route in locked.routes() if (scopes := required_scopes(route)) is not None]


def test_each_route_declares_a_scope_or_is_open(locked: Locked) -> None:
    routes = locked.routes()
    check_declared(routes)
    assert len(closed(locked)) > 60
    found = {name for route in routes if required_scopes(route) is None for name in route_names(route)}
    assert found == OPEN


def test_a_route_without_a_declaration_stops_the_start() -> None:
    async def nothing() -> None: ...

    forgotten, both = APIRouter(), APIRouter(dependencies=[Depends(require_admin)])
    forgotten.get("/v1/forgotten")(nothing)
    both.get("/healthz")(nothing)
    for router, name in ((forgotten, "GET /v1/forgotten"), (both, "GET /healthz")):
        app = FastAPI(docs_url=None, redoc_url=None)
        app.include_router(router)
        with pytest.raises(TypeError, match=name):
            check_declared(app.routes)
    app = FastAPI(docs_url=None, redoc_url=None)
    app.mount("/other", FastAPI())
    with pytest.raises(TypeError, match="/other"):
        check_declared(app.routes)
    with pytest.raises(TypeError, match="Odd"):
        check_declared([type("Odd", (BaseRoute,), {})()])


@pytest.mark.parametrize("key", [None, "expired", "revoked", "wrong", "unknown"])
def test_no_closed_route_is_reached_without_a_key_that_holds(locked: Locked, key: str | None) -> None:
    for route, _ in closed(locked):
        for method, path in asked(route):
            answer = locked.ask(key, method, path, json={})
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
        assert locked.ask(key, "OPTIONS", filled(route.path)).status_code == 405
    for route in locked.routes():
        if required_scopes(route) is None:
            for method, path in asked(route):
                assert locked.ask(key, method, path).status_code == (404 if isinstance(route, Mount) else 200), path


@pytest.mark.parametrize("scope", SCOPES)
def test_each_scope_opens_what_declares_it_and_nothing_else(locked: Locked, scope: str) -> None:
    opened = 0
    for route, scopes in closed(locked):
        for method, path in asked(route):
            status = locked.ask(scope, method, path, json={}).status_code
            if scope in scopes:
                opened += 1
                assert status not in (401, 403), (method, path)
                assert status < 500, (method, path)
            else:
                assert status == 403, (method, path)
    assert opened


def test_what_each_scope_is_for(locked: Locked) -> None:
    scopes = {name: required_scopes(route) for route in locked.routes() for name in route_names(route)}
    assert scopes["POST /v1/tasks/{task}/predict"] == scopes["POST /v1/chat/completions"] == {"predict"}
    assert scopes["POST /v2/models/{task}/infer"] == scopes["POST /tokenize"] == {"predict"}
    assert scopes["GET /v1/tasks"] == scopes["GET /v1/models"] == require_read.scopes
    assert scopes["POST /v1/tasks/{task}/versions"] == scopes["POST /v1/load_lora_adapter"] == {"upload"}
    assert scopes["DELETE /v1/tasks/{task}"] == scopes["GET /v1/audit"] == {"admin"}
    assert scopes["GET /v1/overview"] == scopes["GET /v1/traffic"] == {"metrics"}


# ---- tenants

# Routes whose body names the task, and what the body says beside it.
BY_MODEL: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "w1"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "w1"}]}),
    ("/v1/embeddings", {"input": "w1"}),
    ("/classify", {"input": "w1"}),
    ("/pooling", {"input": "w1"}),
    ("/score", {"text_1": "w1", "text_2": "w2"}),
    ("/rerank", {"query": "w1", "documents": ["w2"]}),
    ("/v1/rerank", {"query": "w1", "documents": ["w2"]}),
    ("/tokenize", {"prompt": "w1"}),
    ("/detokenize", {"tokens": [5]}),
    ("/invocations", {"input": "w1"}),
    ("/", {"inputs": "w1"}),
]


def said(answer: httpx.Response, name: str) -> tuple[int, str]:
    """Status and text of an answer, without the name that was asked for and the nearest of the tenant's own."""
    text = answer.text.replace(f" Nearest: `{THEIRS}`.", "")
    return answer.status_code, re.sub(r"\d+\.\d+", "#", text.replace(name, "NAME"))


def test_another_tenant_s_task_is_as_if_it_were_not(locked: Locked) -> None:
    """On every route that names a task in its address, answers are those for a task that is nowhere."""
    absent, tried = "a-none", 0
    for route, _ in closed(locked):
        if "{task}" not in route.path and "{model" not in route.path:
            continue
        for method, _ in asked(route):
            body = {"inputs": "w1"}
            if "aliases" in route.path:
                body = {"version": 1}  # type: ignore[dict-item]
            elif "infer" in route.path:
                tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"]}
                body = {"inputs": [tensor]}  # type: ignore[dict-item]
            elif method in ("PUT", "POST") and route.path.endswith(("{task}", "rollback", "pin", "load")):
                body = {} if "/v1/" in route.path else body
            for named in (MINE, f"{MINE}@1", f"{MINE}@stable"):
                other = named.replace(MINE, absent)
                answers = [
                    locked.ask("b", method, filled(route.path, task=one, model=one), json=body)
                    for one in (named, other)
                ]
                assert said(answers[0], MINE) == said(answers[1], absent), (method, route.path)
                assert not answers[0].is_success, (method, route.path)
                tried += 1
    assert tried > 60
    assert locked.ask("a", "GET", f"/v1/tasks/{MINE}").json()["aliases"] == {"stable": 1}
    for path in (f"/v1/tasks/{MINE}", f"/v1/tasks/{MINE}/versions/1", f"/v1/models/{MINE}"):
        assert locked.ask("b", "GET", path).status_code == 404
        assert locked.ask("a", "GET", path).status_code == 200


@pytest.mark.parametrize(("path", "body"), BY_MODEL)
def test_nor_can_it_be_named_in_a_body(locked: Locked, path: str, body: dict[str, Any]) -> None:
    for named in (MINE, f"{MINE}@1", f"base:{MINE}", "base"):
        answer = locked.ask("b", "POST", path, json=body | {"model": named})
        assert answer.status_code in (404, 424), answer.text
    absent = locked.ask("b", "POST", path, json=body | {"model": "a-none"})
    mine = locked.ask("b", "POST", path, json=body | {"model": MINE})
    assert said(mine, MINE) == said(absent, "a-none")


def test_nor_by_any_other_field(locked: Locked) -> None:
    many = locked.ask("b", "POST", "/v1/predict", json={"tasks": [MINE, THEIRS, "base"], "inputs": "w1"}).json()
    assert [result.get("error", {}).get("code") for result in many["results"]] == [404, None, 404]
    merged = {"merged_adapters": {"ids": [THEIRS, MINE]}}
    answer = locked.ask("b", "POST", f"/v1/tasks/{THEIRS}/predict", json={"inputs": "w1", "parameters": merged})
    assert_error(answer, 404, MINE)
    for path in ("/generate", "/generate_stream", "/"):
        answer = locked.ask("b", "POST", path, json={"inputs": "w1", "parameters": {"adapter_id": MINE}})
        assert answer.status_code in (404, 424), answer.text
    answer = locked.ask("b", "POST", "/v1/unload_lora_adapter", json={"lora_name": MINE})
    assert_error(answer, 404, MINE)


def test_a_tenant_s_lists_have_its_own_tasks_alone(locked: Locked) -> None:
    for tenant, own, other in (("a", MINE, THEIRS), ("b", THEIRS, MINE)):
        locked.ask(tenant, "POST", f"/v1/tasks/{own}/predict", json={"inputs": "w1"})
        for route, _ in closed(locked):
            if "GET" in (route.methods or ()) and "{" not in route.path:
                text = locked.ask(tenant, "GET", route.path).text
                assert other not in text, route.path
        assert [task["name"] for task in locked.ask(tenant, "GET", "/v1/tasks").json()["data"]] == [own]
        assert [model["id"] for model in locked.ask(tenant, "GET", "/v1/models").json()["data"]] == [own]
        assert locked.ask(tenant, "GET", "/v1/overview").json()["tasks"] == 1
        assert {entry["task"] for entry in locked.ask(tenant, "GET", "/v1/audit").json()["data"]} == {own}
        traffic = locked.ask(tenant, "GET", "/v1/traffic").json()
        assert [one["task"] for one in traffic["data"]] == [own]
        assert sum(traffic["total"]["requests"]) == sum(traffic["data"][0]["requests"])
        assert locked.ask(tenant, "GET", f"/v1/traffic?task={other}").json()["data"] == []
        assert other not in locked.ask(tenant, "GET", "/metrics").text
    assert {task["name"] for task in locked.ask("predict", "GET", "/v1/tasks").json()["data"]} == {MINE, THEIRS}
    assert MINE in locked.ask("metrics", "GET", "/metrics").text
    assert MINE not in locked.ask("predict", "GET", "/metrics").text


def test_uploads_outside_its_namespace_are_refused_and_tell_nothing(locked: Locked, tmp_path: Path) -> None:
    files = adapter_files(locked.live.backbone)
    with locked.live.new_client(headers=with_key(locked.keys["b"])) as client:
        for task in (MINE, "a-none"):
            answer = locked.live.upload(task, files, client=client)
            assert_error(answer, 403, "begin with 'b-'")
            folder = {"lora_name": task, "lora_path": str(tmp_path)}
            assert_error(client.post("/v1/load_lora_adapter", json=folder), 403, "begin with 'b-'")
        assert locked.live.upload("b-new", files, client=client).status_code == 201
        assert client.delete("/v1/tasks/b-new").status_code == 204
    assert locked.live.staged == []


def test_a_member_of_another_tenant_is_not_known(locked: Locked) -> None:
    """A composition names the contents that it is made of."""
    sha = locked.ask("a", "GET", f"/v1/tasks/{MINE}/versions/1").json()["sha256"]
    registry = locked.live.runtime.registry
    assert registry.uses(sha)
    from manyhats.core.call import CURRENT_CALL, Call, Caller
    from manyhats.errors import InvalidRequest

    before = CURRENT_CALL.set(Call(caller=Caller(tasks=re.compile("b-.*"))))
    try:
        with pytest.raises(InvalidRequest, match="no stored version"):
            registry.content(sha)
    finally:
        CURRENT_CALL.reset(before)
    assert registry.content(sha).is_dir()


# ---- the file


def test_keys_come_and_go_while_the_server_runs(start, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    with start(keys_file=file.path, scan_interval=0.05) as live:
        assert live.client.get("/v1/tasks").status_code == 200  # no file, no keys
        key = file.create("late", scopes=["predict"])[1]
        wait_until(lambda: live.client.get("/v1/tasks").status_code == 401, "the file is there")
        assert live.client.get("/v1/tasks", headers=with_key(key)).status_code == 200
        assert_error(live.client.delete("/v1/tasks/x", headers=with_key(key)), 403, "'admin'")
        file.revoke("late")
        wait_until(lambda: live.client.get("/v1/tasks", headers=with_key(key)).status_code == 401, "the key is revoked")
        boss = file.create("boss", scopes=["admin"])[1]
        wait_until(lambda: live.client.get("/v1/audit", headers=with_key(boss)).status_code == 200, "it is known")
        log = live.client.get("/v1/audit", headers=with_key(boss)).json()["data"]
        assert [(one["action"], one["actor"], one["detail"]) for one in log] == [
            ("key_create", "keys-file", "boss, admin"),
            ("key_revoke", "keys-file", "late, predict"),
            ("key_create", "keys-file", "late, predict"),
        ]
        file.path.unlink()
        wait_until(lambda: live.client.get("/v1/audit", headers=with_key(boss)).status_code == 401, "the file is gone")
        assert live.client.get("/v1/tasks").status_code == 401  # and the server does not open


def test_a_quota_of_requests(start, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key = file.create("few", scopes=["predict"], requests="2/hour")[1]
    with start(keys_file=file.path) as live:
        left = []
        for _ in range(2):
            answer = live.client.get("/v1/tasks", headers=with_key(key))
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            left.append(answer.headers["x-ratelimit-remaining-requests"])
        assert left == ["1", "0"]
        for path in ("/v1/tasks", "/info"):  # FastAPI's route, and one with another server's shape
            answer = live.client.get(path, headers=with_key(key))
            assert answer.status_code == 429
            assert 3500 < int(answer.headers["retry-after"]) <= 3600
        answer = live.client.post("/v1/predict", json={}, headers=with_key(key))
        assert_error(answer, 429, "2 requests a hour")
        assert live.client.get("/healthz", headers=with_key(key)).status_code == 200


def test_a_quota_of_tokens(start, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key = file.create("few", scopes=["predict"], tokens="8/hour")[1]
    with start(keys_file=file.path) as live, live.new_client(headers=with_key(key)) as client:

        def ask() -> httpx.Response:
            return client.post("/v1/predict", json={"tasks": ["base"], "inputs": "w1 w2 w3"})

        first = ask()
        assert first.json()["results"][0]["usage"]["input_tokens"] == 5
        assert ask().status_code == 200  # there are 3 left, and it takes 5
        answer = ask()
        assert_error(answer, 429, "8 tokens a hour")
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
        assert 3500 < int(answer.headers["retry-after"]) <= 3600


def test_who_asks_is_known_further_in(start, tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key = file.create("one", scopes=["predict"], tenant="team", weight=3)[1]
    seen = []
    with start(keys_file=file.path) as live:
        submit = live.runtime.engine.submit

        def noted(requests: Any) -> None:
            seen.extend(request.tenant for request in requests)
            submit(requests)

        live.runtime.engine.submit = noted  # type: ignore[method-assign]
        live.client.post("/v1/predict", json={"tasks": ["base"], "inputs": "w1"}, headers=with_key(key))
    assert seen == ["team"]
