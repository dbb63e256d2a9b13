"""Each task on one of two servers, by nginx with `deploy/nginx/by-task.conf`."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.conftest import Server, Start
from tests.nginx import FILES, free_port, running_nginx
from tests.waiting import PATIENCE, wait_until

TASKS = [f"task-{i}" for i in range(40)]


class Stub:
    """A server that says which one it is and what it got; `refuses`: with 503."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.refuses = False
        self.go_on = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.start()

    def start(self) -> None:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(503 if stub.refuses else 200)
                self.end_headers()
                said = {"port": stub.port, "method": self.command, "path": self.path, "body": body.decode()[:100]}
                self.wfile.write(json.dumps(said | {"bytes": len(body)}).encode() + b"\n")
                if b'"stream"' in body:
                    self.wfile.flush()
                    stub.go_on.wait(PATIENCE)
                    self.wfile.write(b"the rest\n")

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Pair:
    """Two stubs behind nginx."""

    def __init__(self, url: str, stubs: list[Stub]) -> None:
        self.client = httpx.Client(base_url=url, timeout=PATIENCE)
        self.stubs = {stub.port: stub for stub in stubs}

    def say(self, method: str, path: str, **given: Any) -> Any:
        answer = self.client.request(method, path, **given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(self, task: str) -> int:
        """The port of the server that is asked for a task."""
        return int(self.say("POST", f"/v1/tasks/{task}/predict", json={"inputs": "w"})["port"])

    def spread(self) -> dict[str, int]:
        return {task: self.ask(task) for task in TASKS}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    stubs = [Stub(free_port()) for _ in range(2)]
    try:
        with running_nginx(tmp_path, "by-task.conf", [stub.port for stub in stubs], javascript=True) as url:
            one = Pair(url, stubs)
            yield one
            one.client.close()
    finally:
        for stub in stubs:
            stub.stop()


def test_a_task_has_one_server_wherever_it_is_named(pair: Pair):
    spread = pair.spread()
    assert min(Counter(spread[task] for task in TASKS).values()) > len(TASKS) // 5
    assert len(pair.stubs) == len(set(spread.values()))
    for task, port in spread.items():
        for method, path, given in [
            ("POST", f"/v1/tasks/{task}/predict", {"json": {"inputs": "w"}}),
            ("POST", f"/v1/tasks/{task}@2/predict", {"json": {"inputs": "w"}}),
            ("POST", f"/v1/tasks/{task}/versions", {"files": {"files": ("weights", b"0" * 1000)}}),
            ("PUT", f"/v1/tasks/{task}", {"json": {"pinned": True}}),
            ("PUT", f"/v1/tasks/{task}/aliases/stable", {"json": {"version": 2}}),
            ("DELETE", f"/v1/tasks/{task}", {}),
            ("POST", f"/v2/models/{task}/infer", {"json": {"inputs": []}}),
            ("POST", f"/models/{task}/classify", {"json": {"inputs": "w"}}),
            ("POST", "/v1/chat/completions", {"json": {"messages": [], "model": task}}),
            ("POST", "/v1/completions", {"json": {"prompt": "w", "model": f"{task}@canary"}}),
            ("POST", "/v1/embeddings", {"json": {"input": "w", "model": task}}),
            ("POST", "/classify", {"json": {"input": "w", "model": task}}),
            ("POST", "/generate", {"json": {"inputs": "w", "parameters": {"adapter_id": task}}}),
            ("POST", "/", {"json": {"inputs": "w", "parameters": {"adapter_id": task}}}),
            ("POST", "/v1/load_lora_adapter", {"json": {"lora_name": task, "lora_path": "/a"}}),
            # A body that nginx has on its disk goes by the header.
            ("POST", "/v1/embeddings", {"json": {"input": "w" * 2_000_000}, "headers": {"X-Manyhats-Task": task}}),
        ]:
            said = pair.say(method, path, **given)
            assert (said["port"], said["method"], said["path"]) == (port, method, path)
            # Nothing of the body is lost on its way.
            sent = pair.client.build_request(method, path, **given)
            assert said["bytes"] == len(sent.read())


def test_every_route_that_names_a_task_in_its_body_is_known():
    text = (FILES / "by-task.conf").read_text(encoding="utf-8")
    pattern = re.search(r"location ~ (\^/.*\$) \{", text)
    assert pattern is not None
    routes = json.loads((FILES.parents[1] / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
    named_elsewhere = {"/v1/predict", "/ping"}  # many tasks; none
    bodies = {path for path, methods in routes.items() if "post" in methods and "{" not in path} - named_elsewhere
    assert {path for path in bodies if not re.match(pattern[1], path)} == set()
    assert [path for path in routes if re.match(pattern[1], path) and path not in bodies] == []


def test_what_names_no_task_is_spread(pair: Pair):
    for method, path, given in [
        ("GET", "/v1/tasks", {}),
        ("POST", "/v1/predict", {"json": {"requests": []}}),
        ("POST", "/v1/completions", {"content": b"no JSON"}),
        ("POST", "/v1/completions", {"json": ["no", "object"]}),
        ("POST", "/v1/completions", {"content": b""}),
        ("POST", "/v1/completions", {"json": {"model": 5}}),
        ("POST", "/v1/completions", {"json": {"model": "a", "prompt": "w" * 2_000_000}}),
    ]:
        seen: set[int] = set()
        wait_until(lambda: seen.add(pair.say(method, path, **given)["port"]) or len(seen) == 2, f"{path} on both")  # noqa: B023


def test_a_stream_comes_as_it_is_written(pair: Pair):
    with pair.client.stream("POST", "/v1/completions", json={"model": "a", "stream": True}) as answer:
        pieces = answer.iter_bytes()
        assert json.loads(next(pieces))["path"] == "/v1/completions"
        for stub in pair.stubs.values():
            stub.go_on.set()
        assert b"".join(pieces) == b"the rest\n"


def test_a_servers_tasks_go_to_the_other_while_it_is_gone(pair: Pair):
    before = pair.spread()
    first, second = pair.stubs.values()
    first.stop()
    assert set(pair.spread().values()) == {second.port}
    assert pair.say("POST", "/v1/completions", json={"model": "a"})["port"] == second.port
    first.start()
    # At once, and each to the server that it had: the other's tasks never moved.
    assert pair.spread() == before
    first.refuses = True
    assert set(pair.spread().values()) == {second.port}
    # Where both refuse, the caller gets their answer, and the next request asks them again.
    second.refuses = True
    assert pair.client.post("/v1/tasks/a/predict").status_code == 503
    first.refuses = second.refuses = False
    assert pair.spread() == before


@pytest.mark.slow
def test_real_servers_with_the_same_folder(serve: Start, adapters, tmp_path: Path):
    """Two servers that watch the same tasks' folders; one is killed, and comes back."""
    shared = tmp_path / "shared"
    tasks = [f"t{i}" for i in range(8)]
    for task in tasks:
        (shared / task).mkdir(parents=True)
        for name, data in adapters().items():
            (shared / task / name).write_bytes(data)
    ports = [free_port(), free_port()]

    def start(i: int) -> Server:
        store = tmp_path / f"store-{i}"
        store.mkdir(exist_ok=True)
        for task in tasks:
            link = store / task
            if not link.is_symlink():
                link.symlink_to(shared / task)
        one = serve(store, "--port", str(ports[i]), "--drain-delay", "1").wait_ready()
        wait_until(lambda: set(tasks) <= set(one.tasks()), "it has the tasks")
        return one

    def answered(one: Server) -> dict[str, int]:
        """How many requests of each task a server has answered."""
        found = re.findall(
            r'manyhats_requests_total\{[^}]*outcome="ok",task="(\w+)"\} (\d+)', one.client.get("/metrics").text
        )
        return {task: int(count) for task, count in found}

    servers = [start(i) for i in range(2)]
    with running_nginx(tmp_path, "by-task.conf", ports, javascript=True) as url, httpx.Client(base_url=url) as client:

        def ask(rounds: int) -> None:
            for task in tasks * rounds:
                assert (
                    client.post(f"/v1/tasks/{task}/predict", json={"inputs": "w1 w2"}, timeout=PATIENCE).status_code
                    == 200
                )
                body = {"model": task, "input": "w1"}
                assert client.post("/classify", json=body, timeout=PATIENCE).status_code == 200

        ask(5)
        homes = [answered(one) for one in servers]
        assert set(homes[0]) | set(homes[1]) == set(tasks)
        assert not set(homes[0]) & set(homes[1])
        assert set(homes[0].values()) | set(homes[1].values()) == {10}
        servers[0].kill()
        ask(2)
        assert answered(servers[1]) == {task: 14 if task in homes[1] else 4 for task in tasks}
        servers[0] = start(0)
        ask(1)
        assert answered(servers[0]) == dict.fromkeys(homes[0], 2)


@pytest.mark.slow
def test_real_servers_with_shared_stores(serve: Start, adapters, database_url: str, tmp_path: Path):
    """What is uploaded through nginx is at once there for its task, and on the other server when that one is gone."""
    ports = [free_port(), free_port()]
    shared = ["--database-url", database_url, "--blobs-url", str(tmp_path / "blobs")]
    servers = [serve(tmp_path / f"store-{i}", "--port", str(port), *shared) for i, port in enumerate(ports)]
    for one in servers:
        one.wait_ready()
    tasks = [f"t{i}" for i in range(6)]
    with (
        running_nginx(tmp_path, "by-task.conf", ports, javascript=True) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):

        def ask(task: str) -> int:
            return client.post(f"/v1/tasks/{task}/predict", json={"inputs": "w1 w2"}).status_code

        for task in tasks:
            assert servers[0].upload(task, adapters(), client).status_code == 201
            assert ask(task) == 200
        for one in servers:
            wait_until(lambda: set(tasks) <= set(one.tasks()), "it has all tasks")  # noqa: B023
        servers[0].kill()
        assert [ask(task) for task in tasks] == [200] * len(tasks)
        assert client.delete(f"/v1/tasks/{tasks[0]}").status_code in (200, 204)
        assert [ask(task) for task in tasks] == [404] + [200] * (len(tasks) - 1)
