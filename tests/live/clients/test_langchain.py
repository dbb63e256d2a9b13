"""Vectors and chats by LangChain's clients for OpenAI."""

from __future__ import annotations

import pytest

from tests.api.generating import CHAT, PROMPTS, add
from tests.api.live import TEXTS, Live, close

pytest.importorskip("langchain_openai")

BACKBONE = "llama"


def test_vectors(live: Live) -> None:
    from langchain_openai import OpenAIEmbeddings

    task = live.add(kind="embed")
    expected = [output["embedding"] for output in live.outputs(task)]
    # Else it counts tokens with OpenAI's tokenizer, and sends their numbers.
    embeddings = OpenAIEmbeddings(
        model=task, base_url=f"http://{live.host}:{live.port}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert close(embeddings.embed_documents(TEXTS), expected)
    assert close(embeddings.embed_query(TEXTS[0]), expected[0])
    short = OpenAIEmbeddings(
        model=task,
        base_url=f"http://{live.host}:{live.port}/v1",
        api_key="none",
        check_embedding_ctx_length=False,
        dimensions=4,
    )
    assert len(short.embed_query(TEXTS[0])) == 4


def test_chats(live: Live) -> None:
    from langchain_openai import ChatOpenAI

    task = add(live, chat_template=CHAT)
    asked = {"model": task, "messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 6, "temperature": 0}
    expected = live.client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
    chat = ChatOpenAI(
        model=task, base_url=f"http://{live.host}:{live.port}/v1", api_key="none", max_tokens=6, temperature=0
    )
    answer = chat.invoke(PROMPTS[0])
    assert answer.content == expected
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(str(piece.content) for piece in chat.stream(PROMPTS[0])) == expected
