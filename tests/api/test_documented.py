"""/openapi.json says what the routes of other servers take and answer, each with examples."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI
from manyhats.api.app import create_app

from tests.api.live import Live

TAGS = {"vllm", "tei", "huggingface", "kserve", "sagemaker"}
ALSO = {"/v1/embeddings", "/classify_batch", "/models/{task}/embed", "/version", "/health", "/ping"}
EMPTY = {"/health", "/ping"}
BARE = {"Live", "Ready", "ModelReady", "EntitiesOfTexts"}  # too plain for an example, or made of what has one


@pytest.fixture(scope="module")
def app(live: Live) -> FastAPI:
    return create_app(live.runtime)


def operations(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
        if TAGS & set(operation.get("tags", ())) or path in ALSO
    }


def test_bodies_and_answers_are_typed(app: FastAPI) -> None:
    schema = app.openapi()
    found = operations(schema)
    assert len(found) >= 37
    for name, operation in found.items():
        assert operation["description"], name
        if "requestBody" in operation:
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            assert all(one.get("examples") for one in body.get("anyOf", [body])), name
        elif name.startswith("POST"):
            assert name.split()[1] in EMPTY, name
        answer = operation["responses"]["200"]
        if name.split()[1] in EMPTY:
            continue
        (content,) = answer["content"].values()
        assert content["schema"], name
        models = set(re.findall(r"#/components/schemas/(\w+)", str(content["schema"])))
        for model in models - BARE:
            described = schema["components"]["schemas"][model]
            assert described.get("examples") or "description" in described, (name, model)
        shown = [schema["components"]["schemas"][model].get("examples") for model in models - BARE]
        assert any(shown) or "example" in content or not models - BARE, name


def test_examples_are_of_their_own_form(app: FastAPI) -> None:
    """A model's example is one of its bodies."""
    from pydantic import BaseModel

    def models(cls: type[BaseModel]) -> set[type[BaseModel]]:
        return {cls}.union(*(models(one) for one in cls.__subclasses__()))

    checked = 0
    for model in models(BaseModel):
        if not model.__module__.startswith("manyhats.api"):
            continue
        extra = model.model_config.get("json_schema_extra")
        for example in extra.get("examples", []) if isinstance(extra, dict) else []:  # type: ignore[union-attr]
            model.model_validate(example)
            checked += 1
    assert checked > 30
