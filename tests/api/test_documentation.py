"""/docs and /redoc need no network, and /openapi.json names the keys."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser
from typing import Any

import pytest
from manyhats.api.app import Application, openapi_schema
from manyhats.api.definitions import form_of, share_definitions
from manyhats.core.kinds.registry import KINDS
from pydantic import create_model

from tests.api.live import Live

OPEN = {
    *("GET /healthz", "GET /readyz", "GET /metrics", "GET /health", "GET /ping", "POST /ping"),
    *("GET /v2/health/live", "GET /v2/health/ready", "GET /"),
}


class Loaded(HTMLParser):
    """What a page loads by itself, or names as its schema."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "spec-url")]


def test_the_document_is_made_beside_the_event_loop(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    made = Application.openapi

    def openapi(self: Application) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return made(self)

    monkeypatch.setattr(Application, "openapi", openapi)
    with start() as live:
        first, second = (live.client.get("/openapi.json").json() for _ in range(2))
    assert first == second == openapi_schema()
    making, loop, again, *_ = threads
    assert making is not loop
    assert loop is again


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
    assert {name: (one["type"], one["scheme"]) for name, one in schemes.items()} == dict.fromkeys(
        ("Key", "ReadKey", "UploadKey", "AdminKey", "MetricsKey"), ("http", "bearer")
    )
    named = {
        f"{method.upper()} {path}": operation.get("security")
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    assert {name for name, security in named.items() if security is None} == OPEN
    assert {name for name, security in named.items() if security == [{"AdminKey": []}]} == {
        "PUT /v1/tasks/{task}", "DELETE /v1/tasks/{task}", "GET /v1/audit",
        "DELETE /v1/tasks/{task}/versions/{number}", "PUT /v1/tasks/{task}/aliases/{alias}",
        "DELETE /v1/tasks/{task}/aliases/{alias}", "POST /v1/tasks/{task}/rollback", "POST /v1/tasks/{task}/load",
        "POST /v1/tasks/{task}/unload", "POST /v1/tasks/{task}/lift", "POST /v1/tasks/{task}/pin",
        "POST /v1/tasks/{task}/unpin", "POST /v1/unload_lora_adapter",
    }  # fmt: skip
    assert {name for name, security in named.items() if security == [{"UploadKey": []}]} == {
        "POST /v1/tasks/{task}/versions", "POST /v1/load_lora_adapter",
    }  # fmt: skip


def test_clients_find_each_body_by_its_name() -> None:
    schema = openapi_schema()
    models = schema["components"]["schemas"]
    bodies = 0
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if content["schema"].get("type") == "object":
                    assert path == "/v1/tasks/{task}/versions"  # a form of files, which has no model
                    continue
                forms = content["schema"].get("anyOf", [content["schema"]])
                assert all(form["$ref"].rpartition("/")[2] in models for form in forms), path
                bodies += 1
            events = operation["responses"].get("200", {}).get("content", {}).get("text/event-stream")
            assert events is None or events["schema"]["$ref"].rpartition("/")[2] in models
    assert bodies > 35
    assert "$defs" not in str(schema)


def test_answers_and_parameters_are_told_apart_by_kind() -> None:
    models = openapi_schema()["components"]["schemas"]
    mapping = models["Prediction"]["discriminator"]["mapping"]
    assert set(mapping) == set(KINDS)
    for kind, reference in mapping.items():
        answer = models[reference.rpartition("/")[2]]
        assert answer["properties"]["kind"]["const"] == kind
        assert answer["properties"]["outputs"]["items"]["$ref"].endswith(f"/{kind.title()}Output")
    forms = models["PredictBody"]["properties"]["parameters"]["anyOf"]
    assert {form["$ref"].rpartition("/")[2] for form in forms} == {kind.parameters.__name__ for kind in KINDS.values()}
    assert {"temperature", "top_p", "stop", "guided_regex"} < set(models["ChatBody"]["properties"])


def test_one_name_for_two_models_is_an_error() -> None:
    def operation(field: Any) -> dict[str, Any]:
        return {"post": form_of(create_model("Same", **{field: (str, ...)}), mode="validation")}

    share_definitions({"components": {"schemas": {}}, "paths": {"/a": operation("x"), "/b": operation("x")}})
    with pytest.raises(ValueError, match="named Same"):
        share_definitions({"components": {"schemas": {}}, "paths": {"/a": operation("x"), "/b": operation("y")}})
