"""The client that keeps connections busy, against a small server."""

import asyncio
import json
from typing import Any

import pytest
from manyhats.bench import load

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
STREAM = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"9\r\ndata: a\n\n\r\n9\r\ndata: b",
    b"\n\n\r\n0\r\n",
    b"\r\n",
)


def asked(answers: Any, requests: list[Any], **plan: Any) -> tuple[dict[str, Any], list[bytes]]:
    """What the client measured, and the bodies that the server read. `answers`: by path, the parts of an answer."""
    bodies: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                bodies.append(await reader.readexactly(length))
                for part in answers[head.split(" ")[1]]:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            writer.close()

    async def main() -> dict[str, Any]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await load.run({"host": "127.0.0.1", "port": port, "requests": requests, **plan})

    return asyncio.run(main()), bodies


def test_it_asks_as_often_as_the_plan_says_in_its_order() -> None:
    requests = [["/a", {"n": 0}], ["/a", {"n": 1}]]
    found, bodies = asked({"/a": [ANSWER]}, requests, connections=1, count=3, order=[1, 1, 0])
    assert found["answers"] == 3
    assert found["failures"] == 0
    assert [json.loads(body)["n"] for body in bodies] == [1, 1, 0]
    assert set(found["latency"]) == {"0.5", "0.9", "0.99"}


def test_several_connections_share_the_requests() -> None:
    found, bodies = asked({"/a": [ANSWER]}, [["/a", {"n": i}] for i in range(7)], connections=3, count=7)
    assert found["answers"] == 7
    assert sorted(json.loads(body)["n"] for body in bodies) == list(range(7))


def test_an_answer_may_come_in_parts() -> None:
    found, _ = asked({"/a": [ANSWER[:10], ANSWER[10:39], ANSWER[39:]]}, [["/a", {}]], connections=1, count=2)
    assert found["answers"] == 2


def test_the_events_of_a_stream_are_counted() -> None:
    found, _ = asked({"/a": STREAM}, [["/a", {}]], connections=2, count=4)
    assert (found["answers"], found["events"]) == (4, 8)


def test_an_error_is_a_failure_with_its_answer() -> None:
    refused = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull"
    found, _ = asked({"/a": [refused]}, [["/a", {}]], connections=1, count=5)
    assert found["failures"] == 5
    assert len(found["first_failures"]) == 3
    assert found["first_failures"][0].endswith("full")


def test_a_connection_that_ends_early_is_a_failure() -> None:
    async def main() -> dict[str, Any]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            plan = {"host": "127.0.0.1", "port": port, "requests": [["/a", {}]], "connections": 1, "seconds": 5}
            return await load.run(plan)

    found = asyncio.run(main())
    assert (found["answers"], found["failures"]) == (0, 1)


def test_time_may_limit_it() -> None:
    found, _ = asked({"/a": [ANSWER]}, [["/a", {}]], connections=1, seconds=0.0)
    assert found["answers"] == 0


@pytest.mark.parametrize("body", [{"inputs": "é"}, {}])
def test_a_request_states_its_length_in_bytes(body: dict[str, str]) -> None:
    head, _, data = load.request_bytes("h", 1, "/p", body).partition(b"\r\n\r\n")
    assert json.loads(data) == body
    assert f"Content-Length: {len(data)}".encode() in head
