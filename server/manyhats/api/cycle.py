"""One request and its answer: uvicorn's, with head and body in one write, and a call when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_JOINED = 64 << 10  # bytes of a body that are copied behind the head


class Cycle(RequestResponseCycle):
    """Answers one request of `connection`, the newest."""

    def __init__(
        self, connection: HttpToolsProtocol, resume_reading: Callable[[], None], *, expects_100: bool, keep_alive: bool
    ) -> None:
        super().__init__(
            scope=connection.scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_100,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        self.app: Any = connection.app  # what answers it
        self._resume_reading = resume_reading
        self._head = b""  # is written with the first piece of the body
        self._on_disconnect: Callable[[], None] | None = None

    # ---- disconnects

    def watch(self, on_disconnect: Callable[[], None] | None) -> None:
        """Has `on_disconnect` called when the client disconnects, soon where it has already; None: no more."""
        self._on_disconnect = on_disconnect
        if on_disconnect is not None and self.disconnected:
            asyncio.get_running_loop().call_soon(self.disconnect)

    def disconnect(self) -> None:
        """The client reads no more."""
        self.disconnected = True
        self.message_event.set()
        if self._on_disconnect is not None:
            self._on_disconnect()

    # ---- ASGI

    async def receive(self) -> Any:
        """The next message from the client."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self._resume_reading()
            if not self.message_event.is_set():
                await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Writes a part of the answer."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._expect(message, "http.response.start")
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._render_head(message["status"], message.get("headers", ()))
            if self.chunked_encoding:  # the first piece may be long in coming
                self._write(b"")
            return
        self._expect(message, "http.response.body")
        if self.response_complete:
            raise RuntimeError("the answer has been sent already")
        body, more = message.get("body", b""), message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk if more else chunk + b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the answer is longer than its Content-Length")
        self._write(body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the answer is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _expect(self, message: Any, kind: str) -> None:
        if message["type"] != kind:
            raise RuntimeError(f"expected the ASGI message {kind}, and got {message['type']}")

    def _write(self, body: bytes) -> None:
        """Writes a piece of the body, with the head where it waits."""
        head, self._head = self._head, b""
        if head and len(body) > _JOINED:
            self.transport.write(head)
            head = b""
        if data := head + body:
            self.transport.write(data)

    def _render_head(self, status: int, headers: Any) -> bytes:
        """The status line and all headers. Says in what form the body comes."""
        if self.access_log:
            scope = self.scope
            line = (get_client_addr(scope), scope["method"], get_path_with_query_string(scope), scope["http_version"])
            self.access_logger.info('%s - "%s %s HTTP/%s" %d', *line, status)
        headers = [*self.default_headers, *headers]
        if HEADER_RE.search(b"".join([name for name, _ in headers])):
            raise RuntimeError("a header's name is not valid")
        if HEADER_VALUE_RE.search(b"".join([value for _, value in headers])):
            raise RuntimeError("a header's value is not valid")
        closes = False
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            name = name.lower()
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive = False
                closes = True
            parts.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive and not closes:
            parts.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)
