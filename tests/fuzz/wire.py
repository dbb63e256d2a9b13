"""What comes over a connection: HTTP, compressed and multipart bodies, JSON, names in paths and queries."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

from manyhats.api.body import parse_bytes
from manyhats.api.kserve.infer import InferBody, _texts
from manyhats.api.middleware.content import complaint, without_mark
from manyhats.api.middleware.encoding import unpacked
from manyhats.api.middleware.hosts import host_of
from manyhats.api.multipart import FormReader
from manyhats.api.schemas import SettingsBody
from manyhats.api.uploads import _parts
from manyhats.registry.names import check_alias, check_name, parse_ref
from manyhats.registry.paging import page_of
from manyhats.registry.records import parse_settings
from manyhats.settings import Settings

from tests.fuzz.bodies import BODIES, EXAMPLES
from tests.fuzz.contract import Broken, Check, pieces, scratch

_VALUES = 20_000  # of a body: bounded here as the server bounds it
_LIMIT = 64 << 10  # bytes of a body


# ---- HTTP


class _Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class _Application:
    """Reads each request to its end, and answers with what it read."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str, bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.read.append((scope["method"], scope["path"], scope["query_string"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


def http() -> Check:
    """A connection reads the same requests out of the same bytes, however these are cut."""
    from manyhats.api.server import Config
    from uvicorn.server import ServerState

    application = _Application()
    config = Config(application, Settings())
    config.load()
    loop = asyncio.new_event_loop()

    async def converse(data: list[bytes]) -> tuple[list[Any], bytes]:
        application.read = []
        state, transport = ServerState(), _Transport()
        protocol = config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]
        protocol.connection_made(transport)
        for piece in data:
            protocol.data_received(piece)
            while any(not task.done() for task in state.tasks) and _can_go_on(protocol):
                await asyncio.sleep(0)
        protocol.connection_lost(None)
        for task in list(state.tasks):
            await task
        if state.connections:
            raise Broken("the connection is kept after its end")
        return application.read, bytes(transport.written)

    def check(data: bytes) -> None:
        whole, written = loop.run_until_complete(converse([data]))
        middle = len(data) // 2
        for cut in ([data[:middle], data[middle:]], [data[i : i + 1] for i in range(len(data))]):
            if len(cut) > 2000:
                continue
            again, _ = loop.run_until_complete(converse(cut))
            if again != whole:
                raise Broken(f"in one piece {whole}, in {len(cut)} pieces {again}")
        if written and not written.startswith(b"HTTP/1.1 "):
            raise Broken(f"the answer begins with {written[:40]!r}")

    return check


def _can_go_on(protocol: Any) -> bool:
    """Whether a request under way has something to do before more comes."""
    running = protocol.running
    if running is None or running.response_complete:
        return protocol.pipeline or running is None
    return running.message_event.is_set() or not running.more_body or running.disconnected


def http_seeds() -> list[bytes]:
    head = b"Host: localhost\r\n"
    body = b'{"inputs": "a"}'
    return [
        b"GET /healthz HTTP/1.1\r\n" + head + b"\r\n",
        b"POST /v1/predict HTTP/1.1\r\n" + head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
        b"POST / HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
        b"POST / HTTP/1.1\r\n" + head + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        + head
        + b"\r\nGET /a HTTP/1.1\r\n"
        + head
        + b"\r\n",
        b"GET /a?b=%20 HTTP/1.0\r\n\r\n",
        (b"GET /a HTTP/1.1\r\n" + head + b"\r\n") * 3,
    ]


# ---- bodies


def gzipped() -> Check:
    """A packed body unpacks to at most its limit, a chunk at a time."""
    loop = asyncio.new_event_loop()

    async def read(data: bytes) -> None:
        parts = pieces(data, 8)

        async def receive() -> Any:
            return {"type": "http.request", "body": parts.pop(0) if parts else b"", "more_body": len(parts) > 0}

        _, plain = unpacked({"type": "http", "headers": []}, receive, _LIMIT)
        plain = without_mark(plain)
        came = 0
        while came <= _LIMIT:
            message = await plain()
            if len(message["body"]) > _LIMIT + 1:
                raise Broken(f"{len(message['body'])} bytes unpacked at once")
            came += len(message["body"])
            if not message["more_body"]:
                return

    return lambda data: loop.run_until_complete(read(data))


def gzip_seeds() -> list[bytes]:
    return [
        gzip.compress(b'{"inputs": "a"}', mtime=0),
        gzip.compress(b"", mtime=0) * 3,
        gzip.compress(b"a", mtime=0) + b"\0\0" + gzip.compress(b"b" * 1000, mtime=0),
        gzip.compress(bytes(300_000), mtime=0),
    ]


def multipart() -> Check:
    """A form writes its files into its folder, and nowhere else."""
    root = scratch()
    outside = root / "outside"
    outside.write_bytes(b"")

    def check(data: bytes) -> None:
        content_type, _, body = data.partition(b"\n")
        folder = root / "form"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "files").mkdir(parents=True)
        reader = None
        try:
            reader = FormReader(content_type.decode("latin-1"), folder / "files", folder / "archive", max_files=8)
            for at in range(0, max(len(body), 1), 1 + len(body) // 3):
                reader.feed(body[at : at + 1 + len(body) // 3])
            form = reader.finish()
            _parts(form, _VALUES)
        finally:
            if reader is not None:
                reader.close()
        if len(list((folder / "files").iterdir())) != len(form.files):
            raise Broken(f"of the files {form.files} there are {list((folder / 'files').iterdir())}")
        _check_outside(root, {"form", "outside"})

    return check


def _check_outside(root: Path, known: set[str]) -> None:
    if {path.name for path in root.iterdir()} != known:
        raise Broken(f"there is more than its folder: {list(root.iterdir())}")


def multipart_seeds() -> list[bytes]:
    def part(name: str, filename: str | None, content: bytes) -> bytes:
        file = f'; filename="{filename}"' if filename is not None else ""
        return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"

    config = part("files", "adapter_config.json", b"{}")
    weights = part("files", "adapter_model.safetensors", bytes(8) + b"{}")
    kind = b"multipart/form-data; boundary=b\n"
    return [
        kind + config + weights + part("task", None, b'{"labels": ["a"]}') + b"--b--\r\n",
        kind + part("archive", "a.zip", b"PK") + part("alias", None, b"canary") + b"--b--\r\n",
        kind + part("activate", None, b"false") + config + b"--b--",
        b"multipart/form-data; boundary=\"b\"; x*=UTF-8''a\n" + config + b"--b--\r\n",
    ]


def json_bodies() -> Check:
    """The body of every route, by its first byte, and the settings of a task that one may hold."""

    def check(data: bytes) -> None:
        model = BODIES[data[0] % len(BODIES)] if data else SettingsBody
        body = parse_bytes(data[1:], model, _VALUES)
        if isinstance(body, SettingsBody):
            parse_settings(body.model_dump(exclude_unset=True))

    return check


def json_seeds() -> list[bytes]:
    return [bytes([i]) + json.dumps(example).encode() for i, example in EXAMPLES]


def tensors() -> Check:
    """A body of the open inference protocol: JSON, and the tensors' bytes behind it."""

    def check(data: bytes) -> None:
        head, *rest = pieces(data, 2)
        body = parse_bytes(head, InferBody, _VALUES)
        texts = _texts(body, rest[0] if rest else b"", 100)
        if len(texts) > 100:
            raise Broken(f"{len(texts)} texts")

    return check


def tensor_seeds() -> list[bytes]:
    def one(shape: list[int], **more: Any) -> dict[str, Any]:
        return {"name": "text", "shape": shape, "datatype": "BYTES"} | more

    bytes_behind = b"\x01\0\0\0a\x02\0\0\0bc"
    size = {"binary_data_size": len(bytes_behind)}
    return [
        json.dumps({"inputs": [one([2], data=["a", "b"])]}).encode(),
        json.dumps({"inputs": [one([1, 2], data=[["a", "b"]])], "outputs": [{"name": "label"}], "id": "1"}).encode(),
        json.dumps({"inputs": [one([2], parameters=size)]}).encode() + b"\x00\xff" + bytes_behind,
    ]


# ---- short texts


def names() -> Check:
    """Names of tasks, aliases and versions, tokens of pages, and headers with a grammar of their own."""
    listed = [f"task-{i}" for i in range(20)]

    def check(data: bytes) -> None:
        text = data[1:].decode(errors="surrogateescape")
        match data[:1] and data[0] % 6:
            case 0:
                check_name(text, write=True)
            case 1:
                check_alias(text)
            case 2:
                parse_ref(text)
            case 3:
                page, following = page_of(listed, 5, text)
                while following is not None:
                    page, following = page_of(listed, 5, following)
                if len(page) > 5:
                    raise Broken("a page is too long")
            case 4:
                host_of(text)
            case _:
                complaint(text)

    return check


def name_seeds() -> list[bytes]:
    return [
        b"\x00spam", b"\x01canary", b"\x02spam@canary", b"\x02spam@3", b"\x03dGFzay0z", b"\x04localhost:80",
        b"\x04[::1]:8000", b"\x05application/json; charset=utf-8", b"\x05application/merge-patch+json",
    ]  # fmt: skip
