"""One connection of a client, which a slow client cannot hold open for ever."""

from __future__ import annotations

import logging
from asyncio import Transport
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from manyhats.api.clients import client_of
from manyhats.api.errors import kind_of, response
from manyhats.api.middleware.content import is_upload
from manyhats.api.middleware.request_id import HEADER, new_id
from manyhats.api.protocol import HttpProtocol
from manyhats.core.call import Call
from manyhats.errors import ManyhatsError, NotReady, Overloaded, SlowRequest

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 1.0  # seconds that a client has to read why it was refused, before the connection is closed


@dataclass
class ConnectionLimits:
    """What connections may take, and those that there are. Times in seconds, `body_rate` in bytes a second.

    `max_open`: how many there may be, asked for each new one; `max_of_client`: of one client, 0: any number.
    `keep_alive`: how long one is kept between two requests. `send`: how long a client may take nothing of its answer.
    `json_bytes`, `upload_bytes`: what a body may have at most; more does not make its time longer.
    """

    MAX_CLOSING: ClassVar[int] = 32

    max_open: Callable[[], int]
    max_of_client: int
    head: float
    keep_alive: float
    body: float
    body_rate: int
    json_bytes: int
    upload_bytes: int
    send: float
    keeps_open: Callable[[], bool] = lambda: True  # whether a connection may stay open behind an answer
    open: set[Connection] = field(default_factory=set)
    by_client: dict[str, int] = field(default_factory=dict)  # how many of those that are open
    closing: set[Connection] = field(default_factory=set)  # were answered; the client may still read
    on_refusal: Callable[[Call], None] = lambda call: None  # of what no request was made of

    def close_behind_answers(self) -> None:
        """Has every connection closed behind the answer that is under way, or behind its next one."""
        for connection in list(self.open):
            connection.close_behind_answer()

    def leave(self, connection: Connection) -> None:
        """A connection is open no longer. Once more does nothing."""
        if connection not in self.open:
            return
        self.open.discard(connection)
        left = self.by_client[connection.of_client] - 1
        if left:
            self.by_client[connection.of_client] = left
        else:
            del self.by_client[connection.of_client]

    def sweep(self, elapsed: float) -> None:
        """Closes what has taken too long. `elapsed`: since the last call."""
        for connection in list(self.open):
            connection.check(elapsed)
        for connection in list(self.closing):
            connection.check(elapsed)


class LimitedConfig(Config):
    """uvicorn's settings, with limits for its connections."""

    connection_limits: ConnectionLimits
    behind_proxy: Any  # the application, for requests that a proxy has passed on


class Connection(HttpProtocol):
    """Closes itself, with an answer, where its client is too slow or where there are too many."""

    def __init__(self, config: LimitedConfig, **options: Any) -> None:
        super().__init__(config=config, **options)
        self._limits = config.connection_limits
        self.behind_proxy = config.behind_proxy
        self.of_client = ""  # whose it is
        self._waited = 0.0  # seconds, for the part of the request that is on its way, or for the end
        self.received = 0  # bytes, all in all
        self._before = 0  # bytes that had come before that part
        # What is to come from the client, and the request before it, or that it belongs to.
        self._awaited_part: tuple[str | None, Any] = (None, None)
        self._unsent = 0  # bytes of the answer that the client had not taken at the last look
        self._stuck = 0.0  # seconds since when it has taken none
        self._closing = False

    # ---- what asyncio calls

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        limits, max_open, client = self._limits, self._limits.max_open(), client_of(self.client)
        of_client = limits.by_client.get(client, 0)
        if len(limits.open) < max_open and (of_client < limits.max_of_client or not limits.max_of_client):
            limits.open.add(self)
            self.of_client = client
            limits.by_client[client] = of_client + 1
            return
        self.connections.discard(self)  # nothing of it is waited for when the server stops
        if len(limits.open) < max_open:
            self.refuse(
                Overloaded(
                    f"{of_client} connections of this client are open, which is the most (max_client_connections); use "
                    "those"
                )
            )
            return
        logger.warning("all %d connections are in use (max_connections); new ones get 503", max_open)
        self.refuse(NotReady(f"all {max_open} connections of the server are in use; try again"))

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if not self._closing:
            self.received += len(data)
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._limits.leave(self)
        self._limits.closing.discard(self)
        super().connection_lost(exc)

    # ---- what uvicorn calls

    def shutdown(self) -> None:
        """The server stops: lets a request under way end, and closes the connection."""
        if self._closing or self.running is None or self.running.response_complete:
            self.transport.close()
        else:
            self.running.keep_alive = False

    # ---- limits

    def keeps_open(self) -> bool:
        """Whether the connection may stay open behind the next answer."""
        return self._limits.keeps_open()

    def close_behind_answer(self) -> None:
        """The client is told with the answer under way that the connection ends, unless it has sent more already."""
        running = self.running if self.is_busy else None
        if running is not None and self.cycle is running and not self._waiting and self.part != "head":
            running.keep_alive = False
            self._last = self.part == "nothing"  # else it is seen at the end of the body

    @property
    def is_busy(self) -> bool:
        """Whether a request of it is under way."""
        return not self._closing and self.running is not None and not self.running.response_complete

    def check(self, elapsed: float) -> None:
        """Ends the connection where its client has taken too long. `elapsed`: seconds since the last call."""
        if self._closing:
            self._waited += elapsed
            if self._waited > _CLOSING_SECONDS:
                self.transport.abort()
            return
        self._check_reader(elapsed)
        if self.transport.is_closing():
            return
        part = self._awaited()
        if (part, self.cycle) != self._awaited_part:
            self._awaited_part, self._waited, self._before = (part, self.cycle), 0.0, self.received
        if part is None or self.flow.read_paused:  # what has come is not taken yet: that is not the client's fault
            return
        self._waited += elapsed
        limits = self._limits
        if part == "body":
            came = self.received - self._before
            allowed = limits.body + min(came, self._useful()) / limits.body_rate
            if self._waited > allowed:
                speed = f"{came} bytes in {self._waited:.0f} s"
                self.refuse(SlowRequest(f"the body came too slowly: {speed} (body_timeout, body_rate)"))
        elif part == "next":
            if self._waited > limits.keep_alive:
                self.transport.close()
        elif self._waited > limits.head:
            if part == "first":
                self.transport.close()
            else:
                self.refuse(SlowRequest(f"the request's head did not come within {limits.head:g} s (header_timeout)"))

    def _useful(self) -> int:
        """How many bytes of the body may count for its client: what was answered already is only read to its end."""
        if self.cycle is None or self.cycle.response_complete:
            return 0
        return self._limits.upload_bytes if is_upload(cast("dict[str, Any]", self.scope)) else self._limits.json_bytes

    def _awaited(self) -> str | None:
        """What is to come from the client: a `first` or a `next` request, the rest of a `head`, or of a `body`."""
        running = self.running
        if running is not None and not running.response_complete:
            waits_for_us = self.cycle is not running or running.waiting_for_100_continue
            return "body" if self.part == "body" and not waits_for_us else None
        if self.part == "nothing":
            if self._unsent:
                return None  # the client still takes the answer
            return "first" if running is None else "next"
        return self.part

    def _check_reader(self, elapsed: float) -> None:
        """Cuts off a client that takes nothing of its answer."""
        unsent = self.transport.get_write_buffer_size()
        stuck = unsent > 0 and unsent >= self._unsent
        self._unsent = unsent
        self._stuck = self._stuck + elapsed if stuck else 0.0
        if self._stuck > self._limits.send:
            self.transport.abort()

    def refuse(self, error: ManyhatsError) -> None:
        """Answers with an error, where no answer has started, and closes the connection. A route is notified of it."""
        running, answers = self.running, True
        call: Call | None = None  # the one that this ends
        if running is not None:
            if not running.response_complete:
                call = running.scope.get("state", {}).get("call")
            # What is left of a body that has been answered gets no answer of its own.
            answers = self.part != "body" if running.response_complete else not running.response_started
            if not running.response_complete:
                running.disconnect()
        limits = self._limits
        limits.leave(self)
        if answers:
            status, kind = kind_of(error)
            if call is None:
                self._limits.on_refusal(call := Call(new_id(), status=status, error=kind))
            elif not call.status:  # else the answer is on its way: the request had it already
                call.status, call.error = status, kind
            self.transport.write(_answer(error, call.id))
        if not answers or len(limits.closing) >= limits.MAX_CLOSING:
            self.transport.close()
            return
        # The client may be writing: closed at once, the connection would be reset, and the answer lost on its way.
        self._closing, self._waited = True, 0.0
        limits.closing.add(self)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


def _answer(error: ManyhatsError, request_id: str) -> bytes:
    """A whole HTTP answer, by hand: there is no request that it belongs to."""
    made = Context().run(response, error)  # it may be another request, answered just now, that calls this
    made.headers["Connection"] = "close"
    made.headers[HEADER] = request_id
    lines = [name.title() + b": " + value + b"\r\n" for name, value in made.raw_headers]
    return STATUS_LINE[made.status_code] + b"".join(lines) + b"\r\n" + bytes(made.body)
