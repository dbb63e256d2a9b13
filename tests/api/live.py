"""The real application on a free port, adapters to send to it, and short ways to ask."""

from __future__ import annotations

import itertools
import json
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from manyhats.api.app import create_app
from manyhats.api.connection import ConnectionLimits
from manyhats.api.server import create_server
from manyhats.api.turns import Turns
from manyhats.backbone import Backbone
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.engine.runner import Runner
from manyhats.formats.writer import write_adapter
from manyhats.methods.heads import KindName
from manyhats.runtime import Runtime
from manyhats.settings import Settings

from tests import tiny
from tests.waiting import PATIENCE, STEP, wait_until

TEXTS = ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10"]

Files = dict[str, bytes]
_names = itertools.count()
_seeds = itertools.count(1000, 10)


def fresh(stem: str = "task") -> str:
    """A name that no task has yet."""
    return f"{stem}-{next(_names)}"


# ---- adapters


def adapter_files(
    backbone: Backbone,
    method: str = "lora",
    *,
    kind: KindName = "classify",
    labels: int = 3,
    seed: int | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Files:
    """The files of a random adapter, as a library writes them; another one at each call, or that of `seed`."""
    seed = next(_seeds) if seed is None else seed
    adapter = tiny.adapter(backbone, method, seed, kind=kind, labels=labels, settings=settings, **options)
    with tempfile.TemporaryDirectory() as folder:
        write_adapter(adapter, Path(folder), backbone)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def edited(files: Files, name: str, /, **changes: Any) -> Files:
    """The files with some fields of one JSON file set."""
    return files | {name: json.dumps(json.loads(files[name]) | changes).encode()}


# ---- the server


class Live:
    """A running server and a client of it."""

    def __init__(self, runtime: Runtime, limits: ConnectionLimits, turns: Turns, host: str, port: int) -> None:
        self.runtime = runtime
        self.limits = limits
        self.turns = turns
        self.host = host
        self.port = port
        self.client = self.new_client()

    def new_client(self, **options: Any) -> httpx.Client:
        """Another client, for another thread or with other headers."""
        return httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=PATIENCE, **options)

    @property
    def backbone(self) -> Backbone:
        """The backbone that it serves."""
        return self.runtime.backbone

    @property
    def hidden(self) -> Path:
        """Where the store keeps what is its own."""
        return self.runtime.settings.store / ".manyhats"

    @property
    def staged(self) -> list[str]:
        """What lies in staging."""
        return [path.name for path in (self.hidden / "staging").iterdir()]

    def upload(
        self,
        task: str,
        files: Files | None = None,
        /,
        *,
        archive: bytes | None = None,
        name: str = "a.tar.gz",
        client: httpx.Client | None = None,
        **form: str,
    ) -> httpx.Response:
        """Sends an adapter."""
        parts = [("files", (file, data)) for file, data in (files or {}).items()]
        if archive is not None:
            parts.append(("archive", (name, archive)))
        return (client or self.client).post(f"/v1/tasks/{task}/versions", files=parts, data=form)

    def add(self, stem: str = "task", method: str = "lora", **options: Any) -> str:
        """Uploads a random adapter as a new task, and gives its name once it has come to rest."""
        task = fresh(stem)
        answer = self.upload(task, adapter_files(self.backbone, method, **options))
        assert answer.status_code == 201, answer.text
        self.wait_loaded()
        return task

    def wait_loaded(self) -> None:
        """Until no adapter is on its way into a slot."""
        wait_until(lambda: not self.runtime.adapter_cache._load_jobs, "all adapters are loaded")

    def ask(self, task: str, inputs: Any = TEXTS, **parameters: Any) -> httpx.Response:
        """Asks one task."""
        return self.client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs, "parameters": parameters})

    def outputs(self, task: str, inputs: Any = TEXTS, **parameters: Any) -> list[dict[str, Any]]:
        """The answers of one task, which must come."""
        answer = self.ask(task, inputs, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["outputs"]

    def users(self) -> int:
        """How many hold an adapter in its slot now."""
        return sum(slot.users for slot in self.runtime.adapter_cache._slots.values())

    def pins(self) -> int:
        """How many hold a version's files now."""
        return sum(self.runtime.registry._pins.values())

    def wait_idle(self) -> None:
        """Until nobody holds anything and nothing waits."""
        wait_until(
            lambda: not self.users() and not self.pins() and not self.runtime.engine.waiting(), "everything given back"
        )


@contextmanager
def serving(backbone: Backbone, store: Path, **settings: Any) -> Iterator[Live]:
    """A server on a free port of this machine, ready, and stopped at the end."""
    runtime = Runtime(Settings(store=store, **settings), backbone=backbone)
    runtime.open()
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle's delay on
    listening.bind(("127.0.0.1", 0))
    app = create_app(runtime)
    server = create_server(app, runtime.settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started and runtime.ready, "the server is ready")
        live = Live(runtime, server.connection_limits, app.state.turns, *listening.getsockname())
        with live.client:
            yield live
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
        assert not thread.is_alive(), "the server does not stop"


# ---- holding the model


class Gate:
    """Stands before the model: closed, no batch runs. `entered` counts the batches that have come to it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = False
        self._passes = 0  # batches that may run though it is closed
        self.entered = 0
        self.batches: list[int] = []  # sequences of each
        self._execute = Runner.execute

    def execute(self, runner: Runner, batch: ScheduledBatch) -> list[SequenceOutput]:
        """What a runner does with each of its batches in the meantime."""
        self.entered += 1
        self.batches.append(len(batch.sequences))
        with self._changed:
            assert self._changed.wait_for(lambda: self._open or self._passes, 2 * PATIENCE), "nobody opened the gate"
            self._passes -= not self._open
        return self._execute(runner, batch)

    def open(self) -> None:
        """Lets all batches run."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def close(self) -> None:
        """Holds the batches that come from now on, and counts them anew."""
        with self._changed:
            self._open = False
            self.entered = 0

    def let_one_pass(self) -> None:
        """Lets one batch run."""
        with self._changed:
            self._passes += 1
            self._changed.notify_all()

    def wait_for(self, batches: int) -> None:
        """Until so many batches have come to the gate."""
        wait_until(lambda: self.entered >= batches, f"{batches} batches at the gate")


# ---- checking answers


def assert_error(answer: httpx.Response, status: int, *patterns: str) -> dict[str, Any]:
    """The one shape of error, with `patterns` found in its message; returns its inside."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:2000]}"
    return assert_error_body(answer.json(), status, *patterns)


def assert_error_body(body: Mapping[str, Any], status: int, *patterns: str) -> dict[str, Any]:
    """The same for a body that has been read."""
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error = body["error"]
    assert error["code"] == status, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert re.fullmatch(r"[A-Za-z]+Error", error["type"])
    assert error["param"] is None or isinstance(error["param"], str)
    for pattern in patterns:
        assert re.search(pattern, error["message"]), f"{pattern!r} not in {error['message']!r}"
    return error


def flat(value: Any) -> Any:
    """All numbers of an answer, and apart from them all else, so that numbers can be compared closely."""
    numbers: list[float] = []

    def walk(v: Any) -> Any:
        match v:
            case bool() | str() | None:
                return v
            case int() | float():
                numbers.append(float(v))
                return "#"
            case dict():
                return {k: walk(x) for k, x in v.items()}
            case list():
                return [walk(x) for x in v]

    return walk(value), numbers


def close(one: Any, other: Any) -> bool:
    """Whether two answers say the same, up to rounding."""
    (shape, numbers), (shape2, numbers2) = flat(one), flat(other)
    return shape == shape2 and torch.allclose(
        torch.tensor(numbers), torch.tensor(numbers2), atol=tiny.CLOSE, rtol=tiny.CLOSE
    )


class Witness:
    """A client that keeps asking one task; every answer must be the one that it got at first."""

    def __init__(self, live: Live, task: str) -> None:
        self._live = live
        self._task = task
        self._expected = live.outputs(task)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.answers = 0
        self.wrong: list[str] = []

    def _ask(self) -> None:
        with self._live.new_client() as client:
            while not self._stop.wait(STEP):
                try:
                    answer = client.post(f"/v1/tasks/{self._task}/predict", json={"inputs": TEXTS})
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    return
                if answer.status_code != 200 or not close(answer.json()["outputs"], self._expected):
                    self.wrong.append(answer.text)
                self.answers += 1

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        before = self.answers
        alive = self._thread.is_alive
        wait_until(lambda: self.answers > before or not alive(), "another answer for the witness")
        self._stop.set()
        self._thread.join()
        assert not self.wrong, self.wrong[:3]


def at_once(*jobs: Callable[[], Any]) -> list[Any]:
    """Runs jobs in threads that start together; their results in order. Raises what a job raises."""
    barrier = threading.Barrier(len(jobs))
    results: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []

    def run(i: int) -> None:
        barrier.wait()
        try:
            results[i] = jobs[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


# ---- raw requests


def raw(live: Live, data: bytes) -> socket.socket:
    """Opens a connection and sends bytes as they are."""
    connection = socket.create_connection((live.host, live.port), timeout=PATIENCE)
    connection.sendall(data)
    return connection


def post_head(path: str, *, length: int, kind: str = "application/json") -> bytes:
    """The head of a POST."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()
    )


def post(path: str, body: Any) -> bytes:
    """A whole POST of JSON."""
    data = json.dumps(body).encode()
    return post_head(path, length=len(data)) + data
