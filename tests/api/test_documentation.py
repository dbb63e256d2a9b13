"""/docs and /redoc need no network, and /openapi.json names the keys."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from manyhats.api.app import openapi_schema

from tests.api.live import Live

OPEN = {
    *("GET /healthz", "GET /readyz", "GET /metrics", "GET /health", "GET /ping", "POST /ping"),
    *("GET /v2/health/live", "GET /v2/health/ready"),
}


class Loaded(HTMLParser):
    """What a page loads by itself, or names as its schema."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "spec-url")]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_from_this_server_alone(live: Live, path: str) -> None:
    answer = live.client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert not re.search(r"https?:|\*", policy)
    assert "frame-ancestors 'none'" in policy
    addresses = [address for address in Loaded(answer.text).addresses if not address.startswith("data:")]
    assert len(addresses) >= 2
    assert "/openapi.json" in answer.text
    assert "https://" not in answer.text
    for address in addresses:
        assert address.startswith("/"), address
        found = live.client.get(address)
        assert found.status_code == 200, address
        if address.endswith((".js", ".css")):
            assert len(found.content) > 100_000
            assert re.match(r"(text|application)/(javascript|css)", found.headers["content-type"])


def test_scripts_are_the_package_s_and_no_others(live: Live) -> None:
    assert live.client.head("/docs/scripts/swagger-ui.css").status_code == 200
    for path in ("/docs/scripts", "/docs/scripts/nothing.js", "/docs/scripts/..%2fcore.py", "/docs/oauth2-redirect"):
        answer = live.client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["type"] == "NotFoundError"


def test_each_operation_names_its_key(live: Live) -> None:
    schema = live.client.get("/openapi.json").json()
    assert schema == openapi_schema()
    schemes = schema["components"]["securitySchemes"]
    assert {name: (one["type"], one["scheme"]) for name, one in schemes.items()} == {
        "Key": ("http", "bearer"),
        "AdminKey": ("http", "bearer"),
    }
    named = {
        f"{method.upper()} {path}": operation.get("security")
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    assert {name for name, security in named.items() if security is None} == OPEN
    assert {name for name, security in named.items() if security == [{"AdminKey": []}]} == {
        "PUT /v1/tasks/{task}", "DELETE /v1/tasks/{task}", "POST /v1/tasks/{task}/versions",
        "DELETE /v1/tasks/{task}/versions/{number}", "PUT /v1/tasks/{task}/aliases/{alias}",
        "DELETE /v1/tasks/{task}/aliases/{alias}", "POST /v1/tasks/{task}/rollback", "POST /v1/tasks/{task}/load",
        "POST /v1/tasks/{task}/unload", "POST /v1/tasks/{task}/pin", "POST /v1/tasks/{task}/unpin",
        "POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter",
    }  # fmt: skip
