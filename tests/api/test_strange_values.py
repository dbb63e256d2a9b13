"""Whatever stands in a field, the routes of other servers answer or refuse: none of them fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.live import TEXTS, Live, adapter_files

_HEADERS = {"Content-Type": "application/json"}
STRANGE: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, "", " ", "9" * 5000, "\ud800", [], [1], [[]], [[1], "x"], [["w1"]], [None], {},
    {"a": [{}]}, [{}], {"text": "w1"}, [{"text": "w1", "text_pair": 3}], "a\0b",
]  # fmt: skip
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"]}
EXTRA = ("model", "adapter_id", "truncate", "truncate_prompt_tokens", "parameters", "stream", "made_up")
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "base", "input": TEXTS, "encoding_format": "float", "dimensions": 2, "pooling": "cls"},
    "/classify": {"model": "labels", "input": TEXTS, "use_activation": True},
    "/classify_batch": {"inputs": TEXTS, "parameters": {"adapter_id": "names"}},
    "/pooling": {"model": "base", "input": TEXTS, "task": "embed", "dimensions": 2, "normalize": True},
    "/score": {"model": "ranks", "text_1": "w1", "text_2": TEXTS, "use_activation": True},
    "/rerank": {"model": "ranks", "query": "w1", "documents": TEXTS, "top_n": 1, "return_documents": True},
    "/v1/rerank": {"model": "ranks", "query": "w1", "texts": TEXTS, "raw_scores": True, "return_text": True},
    "/tokenize": {"prompt": "w1", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2]},
    "/decode": {"ids": [1, 2], "skip_special_tokens": True},
    "/embed": {"inputs": TEXTS, "normalize": True, "dimensions": 2, "prompt_name": None},
    "/embed_all": {"inputs": TEXTS, "prompt_name": None},
    "/similarity": {"inputs": {"source_sentence": "w1", "sentences": TEXTS}},
    "/predict": {"inputs": ["w1", "w2"], "model": "labels", "raw_scores": True},
    "/": {"inputs": "w1", "parameters": {"adapter_id": "labels", "top_k": 1, "function_to_apply": "none"}},
    "/models/names": {"inputs": "w1", "parameters": {"aggregation_strategy": "none"}},
    "/models/base": {"inputs": TEXTS, "normalize": True, "dimensions": 2, "prompt_name": None},
    "/models/base/pipeline/feature-extraction": {"inputs": TEXTS, "encoding_format": "float"},
    "/v2/models/labels/infer": {"inputs": [TENSOR], "id": "x", "outputs": [{"name": "label"}], "parameters": {}},
    "/invocations": {"model": "base", "input": TEXTS},
    "/v1/load_lora_adapter": {"lora_name": "x", "lora_path": "/x", "load_inplace": True},
    "/v1/unload_lora_adapter": {"lora_name": "nobody"},
}


@pytest.fixture(scope="module", autouse=True)
def _tasks(live: Live) -> None:
    for name, kind, count in (("labels", "classify", 3), ("names", "tokens", 3), ("ranks", "rerank", 1)):
        files = adapter_files(live.backbone, kind=kind, labels=count)  # type: ignore[arg-type]
        assert live.upload(name, files).status_code == 201


@pytest.mark.parametrize("path", BODIES)
def test_no_value_fails_the_server(live: Live, path: str) -> None:
    body = BODIES[path]
    usual = live.client.post(path, json=body).status_code
    assert usual == 200 or "lora_adapter" in path
    for name in {*body, *EXTRA}:
        for value in STRANGE:
            answer = live.client.post(path, content=_json(body | {name: value}), headers=_HEADERS)
            assert answer.status_code < 500, (name, value, answer.text)
    inner = next((value for value in (body.get("parameters"), *body.get("inputs", ())) if isinstance(value, dict)), {})
    for name in inner:
        for value in STRANGE:
            changed = inner | {name: value}
            field = (
                {"parameters": changed}
                if "parameters" in body and inner is body["parameters"]
                else {"inputs": [changed]}
            )
            answer = live.client.post(path, content=_json(body | field), headers=_HEADERS)
            assert answer.status_code < 500, (name, value, answer.text)
    for value in STRANGE:
        answer = live.client.post(path, content=_json(value), headers=_HEADERS)
        assert answer.status_code < 500, (value, answer.text)
    live.wait_idle()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()  # a lone surrogate as its escape
