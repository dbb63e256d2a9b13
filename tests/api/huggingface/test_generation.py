"""Texts by Hugging Face's `InferenceClient`."""

from __future__ import annotations

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError

from tests.api.generating import CHAT, PROMPTS, add
from tests.api.live import Live

BACKBONE = "llama"


def test_text_generation(live: Live, tasks: list[str]) -> None:
    root = f"http://{live.host}:{live.port}"
    for task in tasks:
        (expected,) = live.outputs(task, PROMPTS[0], max_new_tokens=6)
        for client, named in (
            (InferenceClient(model=f"{root}/models/{task}", token="none"), {}),
            (InferenceClient(model=root, token="none"), {} if task == "base" else {"adapter_id": task}),
        ):
            answer = client.text_generation(PROMPTS[0], max_new_tokens=6, details=True, **named)
            assert answer.generated_text == expected["text"]
            assert [token.id for token in answer.details.tokens] == expected["tokens"]
            streamed = client.text_generation(PROMPTS[0], max_new_tokens=6, stream=True, **named)
            assert "".join(streamed) == expected["text"]
    with pytest.raises(GenerationError, match="nobody"):
        InferenceClient(model=f"{root}/models/nobody", token="none").text_generation("w1")


def test_chat_completion(live: Live) -> None:
    task = add(live, chat_template=CHAT)
    messages = [{"role": "user", "content": "w1 w2"}]
    asked = {"model": task, "messages": messages, "max_tokens": 5, "temperature": 0}
    expected = live.client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
    client = InferenceClient(base_url=f"http://{live.host}:{live.port}/v1", api_key="none")
    answer = client.chat.completions.create(model=task, messages=messages, max_tokens=5, temperature=0)
    assert answer.choices[0].message.content == expected
    pieces = client.chat_completion(messages, model=task, max_tokens=5, temperature=0, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected


def test_vectors_of_a_decoder(live: Live) -> None:
    """The bare backbone generates; the pipeline in the path asks it for vectors."""
    own = live.outputs("base", PROMPTS[0], kind="embed")[0]["embedding"]
    answer = live.client.post("/models/base/pipeline/feature-extraction", json={"inputs": PROMPTS[0]})
    assert answer.json()[0] == pytest.approx(own, abs=1e-4)
