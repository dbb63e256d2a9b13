"""One request and its answer as messages."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
from manyhats.api.disconnect import EXTENSION
from manyhats.scale import exchange
from manyhats.scale.exchange import Asked, Begun, Exchange, portable

SCOPE = {
    "type": "http", "method": "POST", "path": "/v1/tasks/spam/predict", "raw_path": b"/v1/tasks/spam/predict",
    "query_string": b"", "root_path": "", "headers": [(b"host", b"localhost")], "scheme": "http",
    "http_version": "1.1", "client": ["127.0.0.1", 5], "server": ("127.0.0.1", 80), "app": object(),
}  # fmt: skip


def answered(app: Any, asked: Asked) -> list[Begun | bytes]:
    async def run() -> list[Begun | bytes]:
        return [piece async for piece in Exchange(app, asked).answer()]

    return asyncio.run(run())


async def body_of(receive: Any) -> bytes:
    whole = b""
    while True:
        message = await receive()
        whole += message["body"]
        if not message["more_body"]:
            return whole


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = await body_of(receive)
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-path", scope["path"].encode())]})
    await send({"type": "http.response.body", "body": body[:3], "more_body": True})
    await send({"type": "http.response.body", "body": body[3:]})


def test_an_answer_in_pieces() -> None:
    got = answered(echo, Asked("spam", portable(SCOPE), b"hello"))
    assert got == [Begun(201, [(b"x-path", b"/v1/tasks/spam/predict")], b"hel", True), b"lo"]


def test_a_body_in_parts() -> None:
    async def part(text: bytes) -> bytes:
        return text

    async def run() -> list[Begun | bytes]:
        asked = Asked("spam", portable(SCOPE), b"", (part(b"hel"), part(b"lo, "), part(b"you")))
        return [piece async for piece in Exchange(echo, asked).answer()]

    begun, rest = asyncio.run(run())
    assert isinstance(begun, Begun)
    assert begun.body + rest == b"hello, you"  # type: ignore[operator]


def test_what_goes_to_a_replica_can_be_sent() -> None:
    sent = Asked("spam", portable(SCOPE), b"a")
    assert pickle.loads(pickle.dumps(sent)) == sent
    assert "app" not in sent.scope
    assert sent.scope["client"] == ("127.0.0.1", 5)


def test_what_the_application_raises_is_raised_behind_what_it_sent() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise RuntimeError("gone")

    async def run() -> None:
        got = Exchange(fails, Asked(None, portable(SCOPE))).answer()
        assert isinstance(await anext(got), Begun)
        with pytest.raises(RuntimeError, match="gone"):
            await anext(got)

    asyncio.run(run())


def test_the_application_learns_that_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the callback, by `receive`, and where it follows neither, by the end of its task."""
    ends: list[str] = []

    async def by_callback(scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.Event()
        scope["extensions"][EXTENSION](gone.set)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await gone.wait()
        ends.append("callback")

    async def by_message(scope: Any, receive: Any, send: Any) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        ends.append("message")

    async def by_neither(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
        finally:
            ends.append("task")

    monkeypatch.setattr(exchange, "_PATIENCE", 0.05)

    async def run(app: Any) -> None:
        got: AsyncIterator[Begun | bytes] = Exchange(app, Asked(None, portable(SCOPE))).answer()
        await anext(got)
        await got.aclose()  # type: ignore[attr-defined]

    for app in (by_callback, by_message, by_neither):
        asyncio.run(run(app))
    assert ends == ["callback", "message", "task"]
