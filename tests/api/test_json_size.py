"""What a JSON body may hold: counted before it is parsed, and never more than a first fault reported."""

from __future__ import annotations

import importlib
import json
import pkgutil
import tracemalloc
from collections.abc import Iterator
from typing import Any

import manyhats.api
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.api import json_size
from manyhats.api.json_size import check_values
from manyhats.api.schemas import AnswerBody
from manyhats.errors import TooLarge
from pydantic import BaseModel, RootModel, ValidationError

from tests.api.live import Live, assert_error

TEXTS = st.text(alphabet='ab\\"",:[]{}\n é😀', max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def cost(value: Any) -> int:
    """What the values of a body count, by its parsed form."""
    if isinstance(value, dict):
        return 4 + sum(5 + cost(one) for one in value.values()) + max(len(value) - 1, 0)
    if isinstance(value, list):
        return 4 + sum(cost(one) for one in value) + max(len(value) - 1, 0)
    return 4 if isinstance(value, str) else 0


@settings(max_examples=300, deadline=None)
@given(value=VALUES, plain=st.booleans(), chunk=st.sampled_from([1, 2, 3, 7, 1 << 20]))
def test_values_are_counted_as_a_parser_would(value: Any, plain: bool, chunk: int) -> None:
    body = json.dumps(value, ensure_ascii=plain).encode()
    limit = cost(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_size, "_CHUNK", chunk)
        check_values(body, limit)
        if limit:
            with pytest.raises(TooLarge, match=f"more than {limit - 1} values"):
                check_values(body, limit - 1)


def test_signs_within_texts_are_no_values() -> None:
    check_values(json.dumps({"inputs": '{"a": [1, 2]}, "' * 100_000}).encode(), 1000)


def models() -> Iterator[type[BaseModel]]:
    """Every model of a body of every route."""
    for module in pkgutil.walk_packages(manyhats.api.__path__, "manyhats.api."):
        for one in vars(importlib.import_module(module.name)).values():
            is_model = isinstance(one, type) and issubclass(one, BaseModel) and one.__module__ == module.name
            if is_model and not issubclass(one, (AnswerBody, RootModel)):  # those are written, and not read
                yield one


def lists(schema: Any) -> Iterator[dict[str, Any]]:
    """Every list within a model's schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        for inner in schema.values():
            yield from lists(inner)
    elif isinstance(schema, (list, tuple)):
        for inner in schema:
            yield from lists(inner)


@pytest.mark.parametrize("model", sorted(set(models()), key=lambda m: f"{m.__module__}.{m.__name__}"))
def test_every_list_of_a_body_ends_at_its_first_fault(model: type[BaseModel]) -> None:
    for one in lists(model.__pydantic_core_schema__):
        assert one.get("fail_fast") is True, f"{model.__name__}: use Many[...] for {one}"


@pytest.mark.parametrize("item", [b"1", b"{}", b"[]", b"null", b"true", b'{"text":1}', b'"\xff"'])
def test_a_body_of_wrong_items_has_few_errors(item: bytes) -> None:
    from manyhats.api.schemas import PredictBody

    body = b'{"inputs":[' + b",".join([item] * 20_000) + b"]}"
    with pytest.raises(ValidationError) as caught:
        PredictBody.model_validate_json(body)
    assert caught.value.error_count() < 10


BODIES = {
    "numbers": b"1,",
    "objects": b"{},",
    "lists": b"[],",
    "texts": b'"aa",',
    "pairs": b'{"text":"a"},',
    "keys": b'{"a":1},',
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("where", [b'{"inputs":[', b'{"inputs":"w1","parameters":{"x":['])
def test_a_body_takes_no_more_than_ten_times_its_size(live: Live, name: str, where: bytes) -> None:
    closing = b'"w1"]}' if where.endswith(b":[") and b"parameters" not in where else b"1]}}"
    body = where + BODIES[name] * (4_000_000 // len(BODIES[name])) + closing
    tracemalloc.start()
    try:
        answer = live.client.post("/v1/tasks/base/predict", content=body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_error(answer, 413, "more than 200000 values")
    assert peak < 10 * len(body)


def test_many_unknown_tasks_are_refused_at_once(live: Live) -> None:
    answer = live.client.post("/v1/predict", content=b'{"inputs":"x","tasks":[' + b'"a",' * 1_000_000 + b'"a"]}')
    assert_error(answer, 413, "more than 200000 values")


def test_a_long_value_does_not_come_back_whole(live: Live) -> None:
    for body in (
        {"inputs": "w1", "parameters": {"k" * 1_000_000: 1}},
        {"inputs": "w1", "parameters": {"pooling": "v" * 1_000_000}},
        {"inputs": "w1", "k" * 1_000_000: 1},
    ):
        answer = live.client.post("/v1/tasks/base/predict", json=body)
        assert_error(answer, 400)
        assert len(answer.content) < 10_000


def test_a_byte_order_mark_is_left_out(live: Live) -> None:
    body = json.dumps({"inputs": "w1 w2"}).encode()
    plain = live.client.post("/v1/tasks/base/predict", content=body)
    marked = live.client.post("/v1/tasks/base/predict", content=b"\xef\xbb\xbf" + body)
    assert plain.status_code == marked.status_code == 200
    assert plain.json()["outputs"] == marked.json()["outputs"]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'{"inputs": "w1", "inputs": "w2"}', "inputs"),
        (b'{"inputs": "w1", "parameters": {"logits": true, "logits": false}}', "logits"),
        (b'{"inputs": [{"text": "w1"}, {"text": "w1", "text": "w2"}]}', "text"),
        ('{"inputs": "w1", "parameters": {"é": 1, "\\u00e9": 2, "x": {"ü": 1, "ü": 2}}}'.encode(), "ü"),
    ],
)
def test_a_field_that_stands_twice_is_refused(live: Live, content: bytes, name: str) -> None:
    task = live.add()
    assert_error(live.client.post(f"/v1/tasks/{task}/predict", content=content), 400, f"'{name}' stands twice")


@pytest.mark.parametrize("path", ["/v1/tasks/versions", "/v1/tasks/other"])
def test_a_task_called_versions_has_the_limit_of_every_body(live: Live, path: str) -> None:
    answer = live.client.put(path, content=b'{"template":"' + b"a" * (17 << 20) + b'"}')
    assert_error(answer, 413, "larger than 16777216 bytes")
