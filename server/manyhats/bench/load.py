"""A client that keeps many connections busy: each sends its next request when it has its answer.

    python -m manyhats.bench.load PLAN

PLAN is a JSON file: {"host", "port", "connections", "seconds" or "count", "requests": [[path, body], ...], "order":
[indices, ...]}. The last line of the output is JSON: answers, events (of streams), seconds, failures, and latencies.
It runs in a process of its own and does as little as possible for each answer, because it shares the server's cores.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length: "
_LAST_CHUNK = b"0\r\n\r\n"
_EVENT = b"data: "
_KEPT_FAILURES = 3


@dataclass(slots=True)
class Tally:
    """What all connections have seen."""

    latencies: list[float] = field(default_factory=list)
    events: int = 0
    failures: int = 0
    first_failures: list[str] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One connection. `following` gives the bytes of its next request; None: there is none."""

    def __init__(self, following: Callable[[], bytes | None], tally: Tally, ended: asyncio.Future[None]) -> None:
        self._following = following
        self._tally = tally
        self._ended = ended
        self._received = bytearray()
        self._length = -1  # bytes of the answer; -1: not known yet; -2: it comes in chunks
        self._begin = 0.0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Reads the answer, and sends the next request."""
        received = self._received
        received += data
        if self._length == -1:
            end = received.find(_END_OF_HEAD)
            if end < 0:
                return
            head = bytes(received[:end]).lower()
            at = head.find(_LENGTH)
            self._length = -2 if at < 0 else end + 4 + int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        if self._length == -2:
            if not received.endswith(_LAST_CHUNK):
                return
            self._tally.events += received.count(_EVENT)
        elif len(received) < self._length:
            return
        tally = self._tally
        tally.latencies.append(time.perf_counter() - self._begin)
        if not received.startswith(b"HTTP/1.1 200"):
            tally.failures += 1
            if len(tally.first_failures) < _KEPT_FAILURES:
                tally.first_failures.append(received.decode(errors="replace")[:1000])
        received.clear()
        self._length = -1
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Where the client had not ended it, the server did, and owes an answer."""
        if not self._ended.done():
            self._tally.failures += 1
            self._ended.set_result(None)

    def _send(self) -> None:
        request = self._following()
        if request is None:
            self._transport.close()
            if not self._ended.done():
                self._ended.set_result(None)
            return
        self._begin = time.perf_counter()
        self._transport.write(request)


def request_bytes(host: str, port: int, path: str, body: Any) -> bytes:
    """A POST request with a JSON body."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Follows a plan."""
    requests = [request_bytes(plan["host"], plan["port"], path, body) for path, body in plan["requests"]]
    order, count = plan.get("order") or range(len(requests)), plan.get("count")
    tally, sent = Tally(), 0
    loop = asyncio.get_running_loop()
    begin = time.perf_counter()
    end = begin + plan["seconds"] if count is None else float("inf")

    def following() -> bytes | None:
        nonlocal sent
        if (count is not None and sent >= count) or time.perf_counter() >= end:
            return None
        sent += 1
        return requests[order[(sent - 1) % len(order)]]

    ends = []
    for _ in range(plan["connections"]):
        ended: asyncio.Future[None] = loop.create_future()
        ends.append(ended)
        await loop.create_connection(
            lambda ended=ended: Client(following, tally, ended),  # type: ignore[misc]
            plan["host"],
            plan["port"],
        )
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - begin
    ordered = sorted(tally.latencies)
    return {
        "answers": len(ordered),
        "events": tally.events,
        "seconds": seconds,
        "failures": tally.failures,
        "first_failures": tally.first_failures,
        "latency": {str(share): ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.9, 0.99)}
        if ordered
        else {},
    }


def main() -> None:
    """Reads the plan and prints what was measured."""
    print(json.dumps(asyncio.run(run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))))


if __name__ == "__main__":
    main()
