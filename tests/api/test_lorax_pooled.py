"""Vectors and entities by LoRAX's own client."""

from __future__ import annotations

import asyncio
from typing import Any

import lorax
import lorax.errors
import pytest
from manyhats.api.lorax_pooled import Entities, EntitiesOfTexts

from tests.api.live import TEXTS, Live, close

# LoRAX's client speaks to pydantic as one did years ago.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@pytest.fixture(scope="module")
def names(live: Live) -> str:
    task = live.add("names", kind="tokens", labels=3)
    labels = {"labels": ["B-PER", "I-PER", "LOC"]}
    assert live.client.put(f"/v1/tasks/{task}", json=labels).status_code == 200
    return task


def client(live: Live, task: str = "") -> lorax.Client:
    path = f"/models/{task}" if task else ""
    return lorax.Client(f"http://{live.host}:{live.port}{path}")


def entities(live: Live, task: str, text: str) -> list[tuple[Any, ...]]:
    """Those of our own route."""
    (output,) = live.outputs(task, text)
    return [(one["entity_group"], one["word"], one["start"], one["end"], one["score"]) for one in output["entities"]]


def shown(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(one["entity"], one["word"], one["start"], one["end"], one["score"]) for one in found]


def test_embed(live: Live) -> None:
    task = live.add("vectors", kind="embed")
    for name in ("", task, f"{task}@stable"):
        hats = client(live, name)
        expected = live.outputs(name or "base", TEXTS[0])[0]["embedding"]
        assert close(hats.embed(TEXTS[0]).embeddings, expected)
    several = lorax.AsyncClient(f"http://{live.host}:{live.port}/models/{task}")
    assert close(asyncio.run(several.embed(TEXTS[0])).embeddings, live.outputs(task, TEXTS[0])[0]["embedding"])


def test_classify(live: Live, names: str) -> None:
    hats = client(live, names)
    found = [hats.classify(text).entities for text in TEXTS]
    for text, one in zip(TEXTS, found, strict=True):
        assert one is not None
        assert close(shown(one), entities(live, names, text))
        Entities.model_validate(one)
        tokens = live.outputs(names, text)[0]["tokens"]
        assert all(tokens[entity["index"] - 1]["start"] == entity["start"] for entity in one)
    together = hats.classify_batch(TEXTS)
    assert close([one.entities for one in together], found)
    EntitiesOfTexts.model_validate([one.entities for one in together])


def test_adapter_id_is_followed(live: Live, names: str) -> None:
    for route, inputs in (("/classify", TEXTS[0]), ("/classify_batch", TEXTS)):
        by_path = live.client.post(f"/models/{names}{route}", json={"inputs": inputs, "parameters": None})
        by_name = live.client.post(route, json={"inputs": inputs, "parameters": {"adapter_id": names}})
        assert by_path.status_code == by_name.status_code == 200
        assert close(by_path.json(), by_name.json())


def test_errors(live: Live, names: str) -> None:
    with pytest.raises(lorax.errors.ValidationError, match="not 'tokens'"):
        client(live).classify("w1")  # the bare backbone
    with pytest.raises(lorax.errors.ValidationError, match="not 'embed'"):
        client(live, names).embed("w1")
    with pytest.raises(lorax.errors.GenerationError, match="nobody"):
        client(live, "nobody").embed("w1")
    with pytest.raises(lorax.errors.ValidationError, match="tokens"):
        client(live, names).classify_batch(["w1", "w2 " * 500])
    with pytest.raises(lorax.errors.ValidationError, match="2049"):
        client(live, names).classify_batch(["w1"] * 2049)
    for parameters in (
        {"adapter_id": "other"},
        {"merged_adapters": {"ids": ["a"]}},
        {"adapter_id": names, "adapter_source": "hub"},
    ):
        answer = live.client.post(f"/models/{names}/classify", json={"inputs": "w1", "parameters": parameters})
        assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    live.wait_idle()
