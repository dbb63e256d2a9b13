"""What /openapi.json says of errors and streams, and what a path says that it takes."""

from __future__ import annotations

from manyhats.api.app import openapi_schema

from tests.api.live import Live, assert_error

OURS = {"$ref": "#/components/schemas/ErrorBody"}


def test_errors_are_json_whatever_the_answer_is() -> None:
    paths = openapi_schema()["paths"]
    for path, method in (("/v1/tasks/{task}/versions/{number}/download", "get"), ("/generate_stream", "post")):
        assert list(paths[path][method]["responses"]["4XX"]["content"]) == ["application/json"]


def test_errors_before_the_route_have_our_form_everywhere() -> None:
    for path, operations in openapi_schema()["paths"].items():
        for operation in operations.values():
            form = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert OURS in form.get("anyOf", [form]), path


def test_routes_of_two_forms_have_the_errors_of_both(live: Live) -> None:
    for path in ("/classify", "/tokenize", "/rerank", "/v1/rerank", "/v2/rerank"):
        form = openapi_schema()["paths"][path]["post"]["responses"]["4XX"]["content"]["application/json"]["schema"]
        assert {"$ref": "#/components/schemas/TypedErrorBody"} in form["anyOf"], path
    assert live.client.post("/rerank", json={"texts": ["w1"]}).json().keys() == {"error", "error_type"}
    assert_error(live.client.post("/rerank", json={"documents": ["w1"]}), 400)


def test_the_events_of_a_stream_are_no_texts() -> None:
    for path in ("/generate_stream", "/", "/models/{task}"):
        content = openapi_schema()["paths"][path]["post"]["responses"]["200"]["content"]
        assert content["text/event-stream"]["schema"] == {"$ref": "#/components/schemas/GenerateEvent"}


def test_allow_names_the_methods_of_all_routes_at_a_path(live: Live) -> None:
    for path, methods in {
        "/": "GET, HEAD, POST",
        "/ping": "GET, HEAD, POST",
        "/v1/tasks/none": "DELETE, GET, HEAD, PUT",
        "/v1/tasks/none/aliases/stable": "DELETE, GET, HEAD, PUT",
        "/openapi.json": "GET, HEAD",
    }.items():
        answer = live.client.request("PATCH", path)
        assert_error(answer, 405)
        assert answer.headers["allow"] == methods, path
