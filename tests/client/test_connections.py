"""Real connections: what a mock cannot show about bytes on their way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import manyhats_client as mc
import pytest

from tests.client.driver import driven

SIZE = 3 << 20


class Handler(BaseHTTPRequestHandler):
    """Counts an upload's bytes; breaks off a download half way; hangs up on a prediction."""

    protocol_version = "HTTP/1.1"
    calls: list[tuple[str, int]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.calls.append((self.path, len(self.rfile.read(length))))
        if self.path.endswith("/predict"):
            self.close_connection = True  # without a word
            return
        self._answer(415, b'{"error": {"message": "pickle", "type": "UnsupportedFormatError", "code": 415}}')

    def do_GET(self) -> None:
        self.calls.append((self.path, 0))
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        self.wfile.write(bytes(SIZE // 2))
        self.close_connection = True

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def handler() -> type[Handler]:
    return type("Counting", (Handler,), {"calls": []})


@pytest.fixture
def address(handler: type[Handler], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_upload_says_its_length_and_arrives(kind: str, address: str, handler: type[Handler], tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bytes(SIZE))
    with driven(kind, None, base_url=address) as client, pytest.raises(mc.UnsupportedFormat, match="pickle"):
        client.upload("spam", tmp_path)
    ((path, length),) = handler.calls
    assert path == "/v1/tasks/spam/versions"
    assert SIZE < length < SIZE + 2000


def test_a_download_that_breaks_off_leaves_nothing(kind: str, address: str, tmp_path: Path) -> None:
    with driven(kind, None, base_url=address) as client, pytest.raises(mc.ConnectionFailed):
        client.download("spam", 1, tmp_path / "out.tar.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_hangs_up_was_asked_once(kind: str, address: str, handler: type[Handler]) -> None:
    with driven(kind, None, base_url=address) as client, pytest.raises(mc.ConnectionFailed) as raised:
        client.predict("spam", "x")
    assert raised.value.sent
    assert len(handler.calls) == 1


def test_nobody_listens(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        with driven(kind, None, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}") as client:
            with pytest.raises(mc.ConnectionFailed) as raised:
                client.predict("spam", "x")
            assert not raised.value.sent
            assert len(client.pauses) == 2
