"""HTTP/1.1 of one connection: uvicorn's protocol over httptools, with one reading of every byte and bounded memory.

llhttp, beneath httptools, is strict about lines, lengths and encodings. What it lets pass is checked here: versions,
hosts, encodings of a body other than `chunked`, upgrades (which are not followed), trailers (which nobody reads), and
how long a head may be. Requests that were sent before the one ahead of them was answered wait, as bytes.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from manyhats.api.cycle import Cycle
from manyhats.api.disconnect import EXTENSION
from manyhats.errors import HeadTooLarge, InvalidRequest, ManyhatsError

_LONGEST_HEAD = 64 << 10  # bytes of a request's line and headers, and of what frames a chunk
_PIECE = 16 << 10  # bytes parsed at once: so many requests of a few bytes can wait at most, however much has come
_SPEAKS = frozenset({"1.0", "1.1"})
_FORWARDED = b"x-forwarded-"
_FRAMING = (b"content-length", b"transfer-encoding")

Part = Literal["nothing", "head", "body"]


class HttpProtocol(HttpToolsProtocol):
    """Reads requests and starts the application on one after the other. `refuse` says what becomes of all else."""

    cycle: Cycle | None  # type: ignore[assignment]  # the newest request

    def __init__(self, config: Config, **options: Any) -> None:
        super().__init__(config=config, **options)
        self.part: Part = "nothing"  # that of a request which the client is sending
        self.behind_proxy: Any = self.app  # what answers requests that a proxy has passed on
        self.running: Cycle | None = None  # the request that the application answers
        self._waiting = b""  # bytes that are parsed when the requests ahead of them are answered
        self._failure: ManyhatsError | None = None  # for what has come behind the requests ahead of it
        self._refusal: ManyhatsError | None = None  # why a callback of the parser has ended it
        self._unframed = 0  # bytes of a head, or between two chunks of a body
        self._last = False  # the client said that no request follows this one
        # An upgrade is not followed, but llhttp leaves out the body of who asks for one: a head for reading it.
        self._body_head: bytes | None = None
        self._rereads = False

    # ---- what subclasses define

    def refuse(self, error: ManyhatsError) -> None:
        """Answers with an error, where no answer has started, and closes the connection."""
        raise NotImplementedError

    def keeps_open(self) -> bool:
        """Whether the connection may stay open behind the next answer."""
        return True

    # ---- what asyncio calls

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if self._failure is None and not self._last:
            self._parse(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.pipeline.clear()
        self._waiting = b""
        if self.running is not None and not self.running.response_complete:
            self.running.disconnect()
        super().connection_lost(exc)

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._rereads:
            self.url = b""
            self.headers = []
            self.part = "head"
            self._unframed = 0

    def on_url(self, url: bytes) -> None:
        """A piece of its target."""
        if not self._rereads:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer, which is left out: nobody has checked it."""
        if self.part == "head":
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """All headers are there: the application may start."""
        if self._rereads:
            return
        version = self.parser.get_http_version()
        method = self.parser.get_method().decode("ascii")
        expects_100 = self._check_head(version, method)
        raw_path, _, query = self.url.partition(b"?")
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        keep_alive = version == "1.1" and self.keeps_open() and self.parser.should_keep_alive()
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "method": method,
            "root_path": self.root_path,
            "path": self.root_path + path,
            "raw_path": self.root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
        }
        cycle = Cycle(self, self.resume_reading, expects_100=expects_100, keep_alive=keep_alive)
        forwarded = any(name.startswith(_FORWARDED) for name, _ in self.headers)
        cycle.app = self.behind_proxy if forwarded else self.app
        self.scope["extensions"] = {EXTENSION: cycle.watch}  # type: ignore[dict-item]
        self.cycle = cycle
        self.part = "body"
        self._unframed = 0
        if self.running is None or self.running.response_complete:
            self._start(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, cycle.app))

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._unframed = 0

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unframed = 0
        cycle = self.cycle
        assert cycle is not None
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A request has come as a whole."""
        if self._body_head is not None and not self._rereads:
            return
        self.part = "nothing"
        self._rereads = False
        cycle = self.cycle
        assert cycle is not None
        self._last = not cycle.keep_alive
        cycle.more_body = False
        cycle.message_event.set()

    # ---- what a cycle calls

    def on_response_complete(self) -> None:
        """The request that ran has its answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, _ = self.pipeline.pop()
            assert isinstance(cycle, Cycle)
            self._start(cycle)
        elif self._failure is not None:
            self.refuse(self._failure)
        elif self._waiting:
            self._parse(b"")
        self.resume_reading()

    def resume_reading(self) -> None:
        """Reads on, where nothing that has come waits."""
        if not self.pipeline and not self._waiting and self._failure is None:
            self.flow.resume_reading()

    # ---- ours

    def _start(self, cycle: Cycle) -> None:
        self.running = cycle
        self._start_asgi_task(cycle, cycle.app)

    def _check_head(self, version: str, method: str) -> bool:
        """Whether the client waits for `100 Continue` before it sends its body.

        Ends the parser's run for what can be read in more than one way, and for what is not HTTP/1.
        """
        hosts, expects, encoding, framing = 0, False, None, None
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"expect":
                expects = version == "1.1" and value.lower() == b"100-continue"
            elif name in _FRAMING:
                framing = (name, value)
                if name == b"transfer-encoding":
                    encoding = value
        if version not in _SPEAKS:
            self._end(f"HTTP/{version} is not supported")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._end("exactly one 'Host' header is needed")
        if encoding is not None and (encoding.lower() != b"chunked" or version == "1.0"):
            self._end("no other transfer encoding than 'chunked' is supported, and that in HTTP/1.1 alone")
        if method == "CONNECT":
            self._end("CONNECT is not supported")
        self._body_head = None
        if framing is not None and self.parser.should_upgrade():
            self._body_head = b"POST / HTTP/1.1\r\n%s: %s\r\n\r\n" % framing
        return expects

    def _end(self, message: str) -> None:
        """Ends the parser's run, from one of its callbacks."""
        self._refusal = InvalidRequest(message)
        raise ValueError(message)

    def _parse(self, data: bytes) -> None:
        """Parses what has come until a request has to wait for another."""
        data = self._waiting + data
        self._waiting = b""
        done = 0
        while done < len(data) and not self._last and not self.transport.is_closing():
            if self.pipeline:
                self._waiting = data[done:]
                self.flow.pause_reading()
                return
            piece = data if len(data) <= _PIECE and done == 0 else data[done : done + _PIECE]
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                done += upgrade.args[0]
                if self._body_head is not None:
                    self._read_body_of_upgrade(self._body_head)
                continue
            except httptools.HttpParserError as error:
                refusal, self._refusal = self._refusal, None
                self._fail(refusal or InvalidRequest(f"this is no valid HTTP request: {error}"))
                return
            done += len(piece)
            if self.part != "nothing":
                self._unframed += len(piece)
                if self._unframed > _LONGEST_HEAD:
                    self._fail(HeadTooLarge("the request's line and headers are too long"))
                    return

    def _fail(self, error: ManyhatsError) -> None:
        """What comes cannot be read; requests ahead of it get their answers first."""
        ahead = self.running is not None and not self.running.response_complete
        if not self.pipeline and not (ahead and self.part != "body"):
            self.refuse(error)
            return
        if self.pipeline and self.part == "body":
            self.pipeline.popleft()  # the one that it belongs to
        self.part = "head"
        self._failure = error
        self.flow.pause_reading()

    def _read_body_of_upgrade(self, head: bytes) -> None:
        """Goes on with another parser, which has read the request's head without what asked for an upgrade."""
        self.parser = httptools.HttpRequestParser(self)
        self._body_head = None
        self._rereads = True
        self.parser.feed_data(head)
