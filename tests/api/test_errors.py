"""One shape of error, on every route that there is."""

from __future__ import annotations

import re

import pytest
from fastapi.routing import APIRoute
from manyhats.api.app import create_app
from manyhats.runtime import Runtime
from manyhats.settings import Settings

from tests.api.live import Live, adapter_files, assert_error, fresh

OPEN = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/health",
    "/ping",
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/oauth2-redirect",
}
# Routes whose POST keeps another server's shape.
OTHER_SHAPES = {
    "/", "/generate", "/generate_stream", "/models/{task}", "/models/{task}/pipeline/{pipeline}", "/classify_batch",
    "/models/{task}/embed", "/models/{task}/classify", "/models/{task}/classify_batch", "/embed", "/embed_all",
    "/similarity", "/predict", "/decode",
}  # fmt: skip
VALUES = {"task": "no-such-task", "number": "1", "alias": "x"}
ADMIN, ASKER = "admin-key", "asker-key"


def routes(app) -> list[tuple[str, set[str]]]:
    """Path and methods of every route, whatever router it came by."""
    found: dict[str, set[str]] = {}

    def walk(several, prefix: str = "") -> None:
        for route in several:
            if getattr(route, "methods", None):
                found.setdefault(prefix + route.path, set()).update(route.methods - {"HEAD"})
            inner = getattr(route, "original_router", None) or getattr(route, "app", None)
            if not isinstance(route, APIRoute) and hasattr(inner, "routes"):
                walk(inner.routes, prefix + getattr(route, "path", ""))

    walk(app.routes)
    return sorted(found.items())


def filled(path: str) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda m: VALUES.get(m[1], "x"), path)


@pytest.fixture(scope="module")
def locked(served, tmp_path_factory):
    """A server that asks for keys."""
    from tests.api.live import serving

    with serving(
        served, tmp_path_factory.mktemp("locked") / "store", api_keys=f"{ASKER}, second", admin_keys=ADMIN
    ) as running:
        running.headers = {"Authorization": f"Bearer {ADMIN}"}
        yield running


def test_every_route_has_the_one_shape_of_error(live: Live, locked: Live):
    app = create_app(live.runtime)
    all_routes = routes(app)
    paths = {path for path, _ in all_routes}
    assert paths >= {
        "/v1/tasks", "/v1/tasks/{task}", "/v1/tasks/{task}/versions", "/v1/tasks/{task}/versions/{number}",
        "/v1/tasks/{task}/versions/{number}/download", "/v1/tasks/{task}/aliases/{alias}",
        "/v1/tasks/{task}/rollback", "/v1/tasks/{task}/load", "/v1/tasks/{task}/unload", "/v1/tasks/{task}/pin",
        "/v1/tasks/{task}/unpin", "/v1/tasks/{task}/predict", "/v1/predict", "/healthz", "/readyz", "/metrics", "/",
    }  # fmt: skip
    for path, methods in all_routes:
        if path in OTHER_SHAPES:
            methods = methods - {"POST"}
        if path.startswith("/v2/") or path == "/v2":  # KServe's shape, whatever the method
            methods = set()
        url = filled(path)
        for method in methods:
            if "{task}" in path:  # unknown task
                if method == "POST" and path.endswith("/versions"):
                    answer = live.upload("no-such-task", {"x.json": b"{}"})
                    assert_error(answer, 400)
                    continue
                body = {"inputs": "w1"} if path.endswith("predict") else {}
                body = {"version": 1} if "{alias}" in path else body
                answer = live.client.request(method, url, json=body)
                assert_error(answer, 404, "no-such-task")
            if path not in OPEN and path not in OTHER_SHAPES:  # no key
                answer = locked.client.request(method, url)
                error = assert_error(answer, 401)
                assert error["type"] == "AuthenticationError"
                assert answer.headers["www-authenticate"] == "Bearer"
            else:
                assert locked.client.request(method, url).status_code == 200
        taken = dict(all_routes)[path]
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - taken:  # wrong method
            assert_error(live.client.request(method, url), 405, method)
    for path in ("/nowhere", "/v1", "/v1/tasks/x/nowhere", "/v1/tasks/a/b/c/d"):
        for method in ("GET", "POST"):
            assert_error(live.client.request(method, path), 404, path)


def test_a_number_that_is_none_is_a_bad_request(live: Live):
    for number in ("x", "1.5", "-", "9" * 5000, "١x"):
        for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/download")):
            answer = live.client.request(method, f"/v1/tasks/t/versions/{number}{tail}")
            assert_error(answer, 400)


# ---- keys


def routes_by_need(live: Live) -> tuple[list, list]:
    """Requests that ask, and requests that change."""
    task = fresh()
    client = live.client
    client.headers = {"Authorization": f"Bearer {ADMIN}"}
    assert live.upload(task, adapter_files(live.backbone)).status_code == 201
    assert live.upload(task, adapter_files(live.backbone)).status_code == 201
    client.headers = {}
    t = f"/v1/tasks/{task}"
    asks = [
        ("GET", "/v1/tasks", None),
        ("GET", t, None),
        ("GET", f"{t}/versions/1", None),
        ("GET", f"{t}/versions/1/download", None),
        ("POST", f"{t}/predict", {"inputs": "w1"}),
        ("POST", "/v1/predict", {"tasks": [task], "inputs": "w1"}),
    ]
    changes = [
        ("PUT", t, {"priority": 1}),
        ("PUT", f"{t}/aliases/x", {"version": 1}),
        ("DELETE", f"{t}/aliases/x", None),
        ("POST", f"{t}/rollback", None),
        ("POST", f"{t}/load", None),
        ("POST", f"{t}/unload", None),
        ("POST", f"{t}/pin", None),
        ("POST", f"{t}/unpin", None),
        ("POST", f"{t}/lift", None),
        ("DELETE", f"{t}/versions/2", None),
        ("DELETE", t, None),
    ]
    return asks, changes


def test_keys_open_what_they_are_for(locked: Live):
    asks, changes = routes_by_need(locked)
    client = locked.client
    wrong = ("", "Bearer", "Bearer wrong", f"Basic {ASKER}", ASKER, f"Bearer {ASKER}x", "Bearer \xe9")
    for method, path, body in asks + changes:
        for header in wrong:
            headers = {"Authorization": header.encode("latin-1")}
            assert_error(client.request(method, path, json=body, headers=headers), 401)
    for method, path, body in asks:
        for key in (ASKER, "second", ADMIN):
            headers = {"Authorization": f"bearer {key}"}
            assert client.request(method, path, json=body, headers=headers).status_code == 200
    for method, path, body in changes:
        error = assert_error(client.request(method, path, json=body, headers={"Authorization": f"Bearer {ASKER}"}), 403)
        assert error["type"] == "PermissionDeniedError"
    for method, path, body in changes:
        answer = client.request(method, path, json=body, headers={"Authorization": f"Bearer {ADMIN}"})
        assert answer.status_code in (200, 204), answer.text


def test_an_upload_needs_an_admin_key(locked: Live):
    files = adapter_files(locked.backbone)
    for key, status in ((None, 401), (ASKER, 403), (ADMIN, 201)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with locked.new_client(headers=headers) as client:
            assert locked.upload("uploaded", files, client=client).status_code == status
    assert locked.staged == []


def test_with_admin_keys_alone_everybody_may_ask(start):
    with start(admin_keys=ADMIN) as live:
        asks, changes = routes_by_need(live)
        for method, path, body in asks:
            assert live.client.request(method, path, json=body).status_code == 200
        for method, path, body in changes:
            assert_error(live.client.request(method, path, json=body), 401)


def test_with_api_keys_alone_they_may_change_too(start):
    with start(api_keys=ASKER) as live:
        live.client.headers = {"Authorization": f"Bearer {ASKER}"}
        assert live.upload("t", adapter_files(live.backbone)).status_code == 201
        assert live.client.delete("/v1/tasks/t").status_code == 204


def test_keys_are_not_shown(served, tmp_path):
    runtime = Runtime(Settings(store=tmp_path / "s", api_keys=ASKER), backbone=served)
    assert ASKER not in repr(runtime.settings) + str(runtime.settings)
