"""Pages of other sites, and those that the operator lets ask."""

from __future__ import annotations

import pytest

from tests.api.live import Live, adapter_files, assert_error, fresh
from tests.api.middleware.asgi import ask, gate, scope

OWN = "http://localhost:8000"
OTHER = "https://app.example"


def status(method: str, *trusted: str, **headers: str) -> int:
    named = {"host": "localhost:8000"} | headers
    return ask(gate(origins=trusted), scope(method, **named)).status


PASS = [
    {},  # no browser
    {"origin": OWN},
    {"origin": "HTTP://LOCALHOST:8000"},
    {"origin": OWN, "sec_fetch_site": "same-origin"},
    {"sec_fetch_site": "none"},  # the address bar
    {"origin": "https://hats.example", "sec_fetch_site": "same-origin"},  # a proxy has changed Host
    {"origin": "https://localhost:8000"},  # a proxy speaks TLS
]
REFUSED = [
    {"origin": OTHER},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://localhost:3000"},
    {"origin": "http://localhost"},
    {"origin": "http://localhost:8000.evil.example"},
    {"origin": "http://evil.example", "sec_fetch_site": "cross-site"},
    {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
    {"sec_fetch_site": "cross-site"},
    {"origin": OWN, "sec_fetch_site": "cross-site"},
    {"origin": "null", "host": ""},
]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(("headers", "expected"), [(h, 200) for h in PASS] + [(h, 403) for h in REFUSED])
def test_what_changes_or_asks_comes_from_no_other_page(method: str, headers: dict[str, str], expected: int) -> None:
    assert status(method, **headers) == expected


@pytest.mark.parametrize("headers", REFUSED)
def test_what_only_reads_passes_and_so_do_trusted_pages(headers: dict[str, str]) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert status(method, **headers) == 200
    assert status("POST", "*", **headers) == 200
    if headers.get("origin"):
        assert status("POST", OTHER, headers["origin"].lower(), **headers) == 200


def test_nothing_of_the_server_can_be_changed_from_another_page(live: Live):
    task = live.add()
    live.upload(task, adapter_files(live.backbone))
    live.wait_loaded()
    before = live.client.get(f"/v1/tasks/{task}").json()
    cross = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    t = f"/v1/tasks/{task}"
    with live.new_client(headers=cross) as page:
        assert_error(
            live.upload(fresh(), adapter_files(live.backbone), client=page), 403, "evil.example", "cors_origins"
        )
        for method, path, body in (
            ("POST", f"{t}/rollback", {}), ("POST", f"{t}/unload", None), ("POST", f"{t}/pin", None),
            ("PUT", t, {"priority": 1}), ("DELETE", t, None), ("PUT", f"{t}/aliases/x", {"version": 1}),
            ("POST", f"{t}/predict", {"inputs": "w1"}), ("POST", "/v1/predict", {"tasks": [task], "inputs": "w1"}),
            ("POST", "/generate", {"inputs": "w1"}), ("POST", "/v1/completions", {"model": "base", "prompt": "w1"}),
        ):  # fmt: skip
            assert_error(page.request(method, path, json=body), 403)
        for headers in ({}, {"Access-Control-Request-Method": "DELETE"}):
            answer = page.options(t, headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control")]
    assert live.client.get(t).json() == before


def test_cors_is_for_the_origins_that_are_named(start):
    with start(cors_origins=f"{OTHER}, http://localhost:3000") as live:
        ask_leave = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for origin in (OTHER, "http://localhost:3000"):
            preflight = live.client.options("/v1/predict", headers={"Origin": origin, **ask_leave})
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
            assert "access-control-allow-credentials" not in preflight.headers
            page = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            answer = live.client.post("/v1/tasks/base/predict", json={"inputs": "w1"}, headers=page)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            failed = live.client.post("/v1/tasks/none/predict", json={"inputs": "w1"}, headers=page)
            assert_error(failed, 404)
            assert failed.headers["access-control-allow-origin"] == origin
        stranger = {"Origin": "http://evil.example"}
        refused = live.client.options("/v1/predict", headers=stranger | ask_leave)
        assert_error(refused, 403)
        assert "access-control-allow-origin" not in refused.headers
        answer = live.client.post("/v1/tasks/base/predict", json={"inputs": "w1"}, headers=stranger)
        assert_error(answer, 403)
        assert "access-control-allow-origin" not in answer.headers
