"""Tokens of texts and texts of tokens over vLLM's routes."""

from __future__ import annotations

from typing import Any

import httpx
from manyhats.api.vllm.tokens import TokenList

from tests.api.generating import CHAT, add
from tests.api.live import Live, assert_error

BACKBONE = "llama"


def tokenize(live: Live, **body: Any) -> httpx.Response:
    return live.client.post("/tokenize", json=body)


def test_tokens_of_a_text(live: Live) -> None:
    loaded = live.backbone.tokenizer.loaded
    for text in ("w1 w2 w3", "w1", "", "w4 " * 3000):
        for special in (None, True, False):
            body = tokenize(live, prompt=text, add_special_tokens=special, return_token_strs=True).json()
            assert TokenList.model_validate(body).model_dump() == body
            assert body["tokens"] == loaded.encode(text, add_special_tokens=special is not False)
            assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
            assert body["max_model_len"] == live.backbone.max_tokens
    assert tokenize(live, prompt="w1").json()["token_strs"] is None


def test_tokens_of_a_conversation_are_those_that_a_chat_reads(live: Live) -> None:
    task = add(live, chat_template=CHAT, system_prompt="w7")
    messages = [{"role": "user", "content": "w1 w2"}]
    asked = {"model": task, "messages": messages}
    body = tokenize(live, **asked, return_token_strs=True).json()
    chat = live.client.post("/v1/chat/completions", json=asked | {"max_tokens": 1}).json()
    assert body["count"] == chat["usage"]["prompt_tokens"]
    assert body["tokens"] == live.backbone.tokenizer.loaded.encode("system w7 user w1 w2 ", add_special_tokens=False)
    more = tokenize(live, **asked, add_special_tokens=True).json()
    assert more["tokens"] == live.backbone.tokenizer.loaded.encode("system w7 user w1 w2 ")
    assert_error(tokenize(live, model=task, messages=[]), 400, "no messages")


def test_texts_of_tokens(live: Live) -> None:
    for text in ("w1 w2 w3", ""):
        tokens = tokenize(live, prompt=text).json()["tokens"]
        answer = live.client.post("/detokenize", json={"tokens": tokens})
        assert answer.json() == {"prompt": live.backbone.tokenizer.decode(tokens, skip_special=False)}
    for wrong in ([-1], [10**9], ["1"], [1.5], None):
        assert_error(live.client.post("/detokenize", json={"tokens": wrong}), 400)


def test_refused(live: Live) -> None:
    assert_error(tokenize(live), 400, "either 'prompt' or 'messages'")
    assert_error(tokenize(live, prompt="w1", messages=[]), 400, "either 'prompt' or 'messages'")
    assert_error(tokenize(live, prompt="w1", model="nobody"), 404, "The model `nobody` does not exist")
    assert_error(tokenize(live, prompt="w1 " * 400_000), 400, "'prompt' has 1200000 characters")
    assert_error(tokenize(live, messages=[{"role": "user", "content": "w1"}], chat_template="x"), 400, "chat_template")
    assert_error(live.client.post("/detokenize", json={"tokens": [1], "model": "nobody"}), 404, "nobody")
    assert tokenize(live, prompt="w1", model="base").status_code == 200
