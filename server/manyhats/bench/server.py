"""A server in a process of its own, and clients that ask it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from manyhats.errors import EngineFailure, NotReady

_HOST = "127.0.0.1"
_START = 300.0  # seconds until a server must be ready
_STOP = 30.0
_QUOTED = 2000  # characters of its log in an error

Question = tuple[str, dict[str, Any]]  # the path and the JSON body of a POST request


@dataclass(frozen=True, slots=True)
class Load:
    """What clients measured. `events`: those of streams; latencies in seconds."""

    answers: int
    events: int
    seconds: float
    latency: dict[str, float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


@dataclass(frozen=True, slots=True)
class BenchServer:
    """A running server."""

    port: int
    pid: int

    def get(self, path: str) -> Any:
        """The JSON of a GET request. Raises httpx's errors."""
        return httpx.get(f"http://{_HOST}:{self.port}{path}", timeout=60).raise_for_status().json()

    def load(
        self,
        questions: Sequence[Question],
        *,
        connections: int,
        seconds: float | None = None,
        count: int | None = None,
        order: Sequence[int] = (),
    ) -> Load:
        """Asks over so many connections, for so many seconds or so many times, in this order of the questions.

        Raises EngineFailure where an answer is an error.
        """
        plan = {
            "host": _HOST, "port": self.port, "connections": connections, "seconds": seconds, "count": count,
            "requests": questions, "order": list(order),
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plan.json"
            file.write_text(json.dumps(plan), encoding="utf-8")
            ran = subprocess.run(
                [sys.executable, "-m", "manyhats.bench.load", str(file)], capture_output=True, text=True, check=False
            )
        if ran.returncode:
            raise EngineFailure(f"the clients failed: {ran.stderr[-_QUOTED:]}")
        found = json.loads(ran.stdout.splitlines()[-1])
        if found["failures"]:
            raise EngineFailure(f"{found['failures']} requests failed, the first with: {found['first_failures'][:1]}")
        return Load(found["answers"], found["events"], found["seconds"], found["latency"])


@contextmanager
def serving(options: dict[str, object]) -> Iterator[BenchServer]:
    """A ready server with these settings, on a free port of the loopback address.

    Raises NotReady where it does not become ready, with the end of its log.
    """
    port = free_port()
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "manyhats.cli", "serve", "--host", _HOST, "--port", str(port), *words]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        )
        try:
            if not wait_until_ok(port, "/readyz", _START, lambda: process.poll() is None):
                log.seek(0)
                raise NotReady(f"the server did not become ready: {log.read()[-_QUOTED:]}")
            yield BenchServer(port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_ok(port: int, path: str, seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
    """Whether a server on the loopback address answers a GET request with 200 within `seconds`, while it is alive."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and alive():
        try:
            if httpx.get(f"http://{_HOST}:{port}{path}", timeout=5).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False
