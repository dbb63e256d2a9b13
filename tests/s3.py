"""A real S3 endpoint on this machine, and a proxy in front of it that fails, stalls or cuts off as a test says."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Literal
from unittest import mock

import httpx
import pytest

Fault = Literal["error", "stall", "cut"] | None

_numbers = count(1)


@dataclass
class Endpoint:
    """`url` of the proxy, `direct` of what is behind it. `fault` says what becomes of a request: method and path."""

    url: str
    direct: str
    fault: Callable[[str, str], Fault] = lambda method, path: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes of bodies that were answered
    released: threading.Event = field(default_factory=threading.Event)  # ends what stalls

    def new_name(self) -> str:
        """A bucket's, which no process of the tests has used."""
        return f"bucket-{os.getpid()}-{next(_numbers)}"

    def bucket(self) -> str:
        """A new bucket with a prefix, as an address."""
        name = self.new_name()
        assert httpx.put(f"{self.direct}/{name}").status_code == 200
        return f"s3://{name}/some/prefix"

    def delete_bucket(self, address: str) -> None:
        """Deletes an empty one."""
        assert httpx.delete(f"{self.direct}/{address.split('/')[2]}").status_code == 204

    def environment(self) -> dict[str, str]:
        """The usual variables."""
        return {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }  # fmt: skip


def _proxy(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            endpoint.requests.append((self.command, self.path))
            fault = endpoint.fault(self.command, self.path)
            if fault == "error":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "stall":
                endpoint.released.wait()
                self.close_connection = True
                return
            host = endpoint.direct.removeprefix("http://")
            connection = http.client.HTTPConnection(host)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            self.send_response(answer.status)
            length = answer.headers.get("Content-Length", str(len(data)))
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if fault == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(data)
            endpoint.sent.append(len(data))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    return Proxy


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """A server of S3 and its proxy, each on a port of its own."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with behind_proxy(Endpoint("", f"http://{host}:{port}")) as one:
        yield one
    moto.stop()


@contextmanager
def behind_proxy(one: Endpoint) -> Iterator[Endpoint]:
    """The endpoint with its proxy, on a port of its own."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that has gone, as after its time."""

    proxy = Server(("127.0.0.1", 0), _proxy(one))
    one.url = f"http://127.0.0.1:{proxy.server_address[1]}"
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield one
    one.released.set()
    proxy.shutdown()
    proxy.server_close()


@contextmanager
def serving_s3() -> Iterator[str]:
    """The address of an S3 of its own. The environment's `AWS_*` variables lead to it meanwhile."""
    with endpoint() as one, mock.patch.dict(os.environ, one.environment()):
        yield one.direct


def make_bucket(url: str, name: str) -> None:
    """An empty bucket."""
    assert httpx.put(f"{url}/{name}").status_code == 200


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[Endpoint]:
    """One for the process."""
    with endpoint() as one:
        yield one


@pytest.fixture
def s3(s3_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """The process's S3, without faults, with the variables that lead to it."""
    s3_endpoint.requests.clear()
    s3_endpoint.sent.clear()
    s3_endpoint.released.clear()
    for name, value in s3_endpoint.environment().items():
        monkeypatch.setenv(name, value)
    yield s3_endpoint
    s3_endpoint.fault = lambda method, path: None
    s3_endpoint.released.set()
