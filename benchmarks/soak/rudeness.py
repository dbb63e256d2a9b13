"""Callers who hang up, and requests that are no requests."""

from __future__ import annotations

import asyncio
import json
import random

from soak.questions import Question
from soak.tally import Tally

_PATIENCE = 60.0
_HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"
_MULTIPART = b"Host: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


def request_bytes(question: Question) -> bytes:
    """The question as it goes over a connection."""
    body = json.dumps(question.body).encode()
    return b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (question.path.encode(), _HEAD, len(body), body)


async def hang_up(port: int, question: Question, pick: random.Random, tally: Tally) -> None:
    """Leaves in the head, in the body, before the answer, or within it: with and without a word."""
    whole = request_bytes(question)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(whole[: pick.choice((10, len(whole) // 2, len(whole) - 1, len(whole), len(whole), len(whole)))])
        await writer.drain()
        if pick.random() < 0.5:
            await asyncio.sleep(pick.random() * 0.05)
        elif question.streamed:
            # Some of a stream, or whatever comes: its beginning must not be waited for, as the request may be half.
            for _ in range(pick.randrange(1, 5)):
                try:
                    if not await asyncio.wait_for(reader.read(200), 0.5):
                        break
                except TimeoutError:
                    break
        if pick.random() < 0.5:
            writer.transport.abort()  # without a word
    finally:
        writer.close()
    tally.hung_up += 1


def malformed(ref: str, pick: random.Random) -> bytes:
    """One of many kinds of requests that must be refused with a status of 400 to 499."""
    path = f"/v1/tasks/{ref}/predict".encode()

    def post(path: bytes, body: bytes, head: bytes = _HEAD) -> bytes:
        return b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (path, head, len(body), body)

    return pick.choice(
        (
            b"NONSENSE\r\n\r\n",
            b"GET /\x01\x02 HTTP/1.1\r\n\r\n",
            b"POST %s HTTP/1.1\r\n%sContent-Length: many\r\n\r\n" % (path, _HEAD),
            b"GET /v1/tasks/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 300),
            post(path, b"{"),
            post(path, b'{"inputs": "\xff"}'),
            post(path, b'{"inputs": 7}'),
            post(path, b'{"inputs": []}'),
            post(path, b'{"inputs": "x", "parameters": {"tempreature": 1}}'),
            post(path, b"[" * 5000),
            post(path, b'{"inputs": ' + b"[1," * 500 + b"1" + b"]" * 500 + b"}"),
            post(b"/v1/tasks/%s/versions" % ref.encode(), b"no multipart"),
            post(b"/v1/tasks/%s/versions" % ref.encode(), b"--x\r\n", _MULTIPART),
            post(b"/v1/tasks/%s/aliases/stable" % ref.encode(), b'{"version": 1}'),
            post(b"/v1/predict", b'{"tasks": 5}'),
            post(b"/v1/embeddings", b'{"input": "no model"}'),
            post(b"/v2/models/%s/infer" % ref.encode(), b'{"inputs": []}'),
        )
    )  # fmt: skip


async def send_malformed(port: int, data: bytes, tally: Tally) -> None:
    """Sends it, and reads the refusal."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        line = await asyncio.wait_for(reader.readline(), _PATIENCE)
        tally.malformed += 1
        if not line.startswith(b"HTTP/1.1 4"):
            tally.fault("malformed request not refused", data[:200], line)
    except (OSError, TimeoutError) as error:
        tally.fault("malformed request not answered", data[:200], repr(error))
    finally:
        writer.transport.abort()
