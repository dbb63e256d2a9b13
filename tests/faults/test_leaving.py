"""Leaving: a server that is told to stop, or to read its settings again, while requests come."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.live import wait_until
from tests.faults.conftest import Server, Start
from tests.nginx import free_port, running_nginx
from tests.waiting import PATIENCE


class Asking:
    """Clients that ask one after the other, over connections that stay open, until they are told to end."""

    def __init__(self, url: str, task: str, clients: int = 4) -> None:
        self.counts: Counter[str] = Counter()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(url, task)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str, task: str) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            while not self._ended.is_set():
                try:
                    answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": "w1 w2"})
                    outcome = str(answer.status_code)
                    if outcome != "200":
                        outcome += answer.text
                except httpx.HTTPError as error:
                    outcome = repr(error)
                with self._lock:
                    self.counts[outcome] += 1

    @property
    def answered(self) -> int:
        with self._lock:
            return sum(self.counts.values())

    def more(self, count: int = 20) -> None:
        """Until so many more have been answered."""
        before = self.answered
        wait_until(lambda: self.answered >= before + count, "further requests are answered")

    def end(self) -> Counter[str]:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return self.counts


def test_after_sigterm_it_answers_then_refuses_then_ends(serve: Start, adapters):
    server = serve(None, "--drain-delay", "2", "--drain-timeout", "60").wait_ready()
    server.upload("t", adapters())
    with httpx.Client(base_url=server.client.base_url, timeout=PATIENCE) as client:
        assert "connection" not in client.post("/v1/tasks/t/predict", json={"inputs": "w1"}).headers
        server.send(signal.SIGTERM)
        wait_until(lambda: client.get("/readyz").status_code == 503, "it says that it is not ready")
        answer = client.post("/v1/tasks/t/predict", json={"inputs": "w1"})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert client.get("/healthz").status_code == 200
        # A request whose body is still to come is under way, and keeps the server from ending.
        with socket.create_connection((client.base_url.host, client.base_url.port), PATIENCE) as slow:
            body = b'{"inputs": "w1 w2"}'
            head = f"POST /v1/tasks/t/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            slow.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body[:5])
            wait_until(lambda: "new requests get 503" in server.text, "new ones are refused")
            answer = client.post("/v1/tasks/t/predict", json={"inputs": "w1"})
            assert answer.status_code == 503
            assert answer.json()["error"]["type"] == "ServiceUnavailableError"
            assert int(answer.headers["retry-after"]) >= 1
            assert client.get("/healthz").status_code == 200
            slow.sendall(body[5:])
            said = b""
            while piece := slow.recv(1 << 16):
                said += piece
        assert said.startswith(b"HTTP/1.1 200")
        assert re.search(rb"(?i)\r\nconnection: close\r\n", said)
    assert server.end() == 0
    assert "Traceback" not in server.text


def test_a_second_signal_ends_it_at_once(serve: Start):
    server = serve(None, "--drain-delay", "600").wait_ready()
    server.send(signal.SIGTERM)
    wait_until(lambda: server.client.get("/readyz").status_code == 503, "it says that it is not ready")
    server.send(signal.SIGTERM)
    assert server.end() == 0


def test_sighup_loses_nothing(serve: Start, adapters, tmp_path: Path):
    config = tmp_path / "settings.toml"
    config.write_text("max_inputs = 3\n")
    server = serve(None, "--config", str(config)).wait_ready()
    server.upload("t", adapters())
    four = ["w1"] * 4
    assert server.ask("t", four).status_code == 413
    asking = Asking(str(server.client.base_url), "t")
    asking.more()
    config.write_text("max_inputs = 4\nslots = 5\nlog_level = 'debug'\n")
    server.send(signal.SIGHUP)
    wait_until(lambda: server.ask("t", four).status_code == 200, "the new limit holds")
    config.write_text("max_inputs = 'many'\n")
    server.send(signal.SIGHUP)
    wait_until(lambda: "max_inputs" in server.text and "were not read again" in server.text, "the error is logged")
    assert server.ask("t", four).status_code == 200
    asking.more()
    assert set(asking.end()) == {"200"}
    assert "at the next start: slots" in server.text
    server.send(signal.SIGTERM)
    assert server.end() == 0


def test_sighup_with_a_file_that_does_not_come_holds_up_no_request(serve: Start, tmp_path: Path):
    keys, ready = tmp_path / "keys.json", tmp_path / "ready.json"
    server = serve(None, "--keys-file", str(keys), "--scan-interval", "3600").wait_ready()
    os.mkfifo(keys)  # as a disk that does not answer
    ready.write_text('{"format": 1}')
    server.send(signal.SIGHUP)

    def read_by_the_server() -> int | None:
        try:
            return os.open(keys, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            return None

    pipe = wait_until(read_by_the_server, "the server waits for its file")
    server.send(signal.SIGHUP)
    for _ in range(20):
        assert server.client.get("/readyz").status_code == 200
        assert server.ask("base").status_code == 200
    ready.replace(keys)
    os.close(pipe)
    wait_until(lambda: server.ask("base").status_code == 401, "there is a file, so keys are asked for")
    server.send(signal.SIGTERM)
    assert server.end() == 0


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """Debian's nginx in front of two ports, with the configuration that the documentation gives."""
    ports = [free_port(), free_port()]
    with running_nginx(tmp_path, "manyhats.conf", ports) as url:
        yield url, ports


@pytest.mark.slow
def test_a_rolling_restart_behind_nginx_fails_no_request(serve: Start, adapters, nginx, tmp_path: Path):
    url, ports = nginx

    def start(i: int) -> Server:
        # The first 'running on' of a restarted server's log is its own: each has another file.
        one = serve(tmp_path / f"store-{i}", "--port", str(ports[i]), "--drain-delay", "1.5")
        one.wait_ready()
        return one

    servers = [start(i) for i in range(2)]
    for one in servers:
        assert one.upload("t", adapters()).status_code == 201
    asking = Asking(url, "t", clients=8)
    asking.more(200)
    begin = time.monotonic()
    for i in range(2):
        servers[i].send(signal.SIGTERM)
        assert servers[i].end() == 0
        asking.more(50)
        servers[i] = start(i)
        asking.more(50)
    counts = asking.end()
    print(f"{counts.total()} requests in {time.monotonic() - begin:.1f} s")
    assert set(counts) == {"200"}, counts
    for one in servers:  # both were asked after their start
        assert one.client.get("/metrics").text.count('manyhats_requests_total{method="lora",outcome="ok",task="t"}')
