"""/openapi.json says of every operation what it takes, answers and refuses, with examples."""

from __future__ import annotations

import re
from typing import Any

import pytest
from manyhats.api.app import openapi_schema
from pydantic import BaseModel

EMPTY = {"GET /health", "GET /ping", "POST /ping"}
WITHOUT_BODY = {"load", "unload", "lift", "pin", "unpin", "ping"}  # of POST


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return openapi_schema()


def operations(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }


def has_example(schema: dict[str, Any], content: dict[str, Any]) -> bool:
    """Whether what a body has of one media type is shown: by itself, or by each of the models that it is one of."""
    form = content["schema"]
    if "example" in content or form.get("examples") or form.get("format") == "binary":
        return True
    forms = form.get("anyOf", [form])
    if form.get("type") == "array":
        forms = form["items"].get("anyOf", [form["items"]])
    models = [re.sub(".*/", "", one["$ref"]) for one in forms if "$ref" in one]
    shown = [schema["components"]["schemas"][model].get("examples") for model in models]
    return any(shown)


def test_every_operation_says_what_it_takes(schema: dict[str, Any]) -> None:
    found = operations(schema)
    assert len(found) > 65
    for name, operation in found.items():
        assert operation["description"], name
        assert operation["tags"], name
        if "requestBody" not in operation:
            assert not name.startswith(("POST", "PUT")) or name.rsplit("/")[-1] in WITHOUT_BODY, name
            continue
        for content in operation["requestBody"]["content"].values():
            assert has_example(schema, content), name


def test_every_operation_says_what_it_answers(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema).items():
        answers = {status: one for status, one in operation["responses"].items() if status.startswith("2")}
        assert answers, name
        for status, answer in answers.items():
            if status == "204" or name in EMPTY:
                assert "content" not in answer, name
                continue
            for content in answer["content"].values():
                form = content["schema"]
                assert form.get("$ref") or form.get("anyOf") or form.get("type"), name
                assert form.get("additionalProperties") is not True, name
                assert has_example(schema, content), name


def test_every_operation_says_what_it_refuses(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema).items():
        for status in ("4XX", "5XX"):
            (content,) = operation["responses"][status]["content"].values()
            assert has_example(schema, content), name


def test_every_model_says_what_it_is(schema: dict[str, Any]) -> None:
    for name, model in schema["components"]["schemas"].items():
        assert model.get("description"), name


def test_examples_are_of_their_own_form(schema: dict[str, Any]) -> None:
    """A model's example is one of its bodies, as it is declared and as the schema shows it."""

    def models(cls: type[BaseModel]) -> set[type[BaseModel]]:
        return {cls}.union(*(models(one) for one in cls.__subclasses__()))

    shown = schema["components"]["schemas"]
    checked = 0
    for model in models(BaseModel):
        if not model.__module__.startswith("manyhats.api"):
            continue
        extra = model.model_config.get("json_schema_extra")
        declared = extra.get("examples", []) if isinstance(extra, dict) else []
        for example in [*declared, *shown.get(model.__name__, {}).get("examples", [])]:  # type: ignore[misc]
            model.model_validate(example)
            checked += 1
    assert checked > 80
    assert shown["TaskList"]["examples"][0]["next_page_token"] is None
    assert shown["TaskBody"]["examples"][0]["versions"][0]["card"] is None
