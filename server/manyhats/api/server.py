"""The HTTP server: uvicorn's, with limits on what a client may hold open and for how long.

uvicorn has no timeouts for a request that comes slowly, no answer of ours where it answers by itself, and limits what
runs at once, where open connections are what runs out. What is used of it beyond its settings stands in this module and
in `manyhats.api.protocol`, `.cycle` and `.connection`; `tests/api/test_server.py` fails where a release has changed
that.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from manyhats.api.connection import Connection, ConnectionLimits, LimitedConfig
from manyhats.api.drain import Drain
from manyhats.api.reload import Reloader
from manyhats.settings import Settings

_SWEEP = 0.5  # seconds between looks at the connections
# Connections that are taken in one turn of the event loop. asyncio takes as many before any of them is looked at, and
# each is a file that is open for some turns, even if it is one too many.
_ACCEPTED_AT_ONCE = 32
_ACCEPT_QUEUE = 2048  # connections that the kernel keeps until they are taken
_TURNS = 4  # until one that is refused at once has been closed
_MAX_CONNECTIONS = 8192  # connections, however many files may be open: each takes memory
_MIN_CONNECTIONS = 16
_OTHER_FILES = 64


class Server(uvicorn.Server):
    """uvicorn's server: looks at its connections twice a second, and leaves as `Drain` says."""

    def __init__(self, config: Config, drain: Drain, reloader: Reloader | None) -> None:
        super().__init__(config)
        self.connection_limits = config.connection_limits
        self.drain = drain
        self.reloader = reloader
        self._leaves = False  # a signal has said so
        self._reloads = False
        self._swept = time.monotonic()
        self.connection_limits.keeps_open = lambda: drain.keeps_connections

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal. The first SIGTERM lets the server leave, a second one ends it at once, as SIGINT does."""
        if sig == signal.SIGTERM and self.started and not self._leaves:
            self._captured_signals.append(sig)
            self._leaves = True
        else:
            super().handle_exit(sig, frame)

    def reload(self) -> None:
        """Reads the settings again, soon; may be called in a signal's handler."""
        self._reloads = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, with a long queue in the kernel, of which few are taken at once."""
        await super().startup(sockets)
        if not self.started:
            return
        for server in self.servers:
            for listening in server.sockets:
                with socket.socket(fileno=os.dup(listening.fileno())) as same:
                    same.listen(_ACCEPT_QUEUE)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; whether to stop."""
        now = time.monotonic()
        if now - self._swept >= _SWEEP:
            # After a pause of the whole process what clients have sent meanwhile is still to be read.
            self.connection_limits.sweep(min(now - self._swept, 2 * _SWEEP))
            self._swept = time.monotonic()
        if self._reloads and self.reloader is not None:
            self._reloads = False
            self.reloader.ask()
        return self._left() or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the connections when what they wait for is there, and stops the application."""
        self.config.timeout_graceful_shutdown = int(self.drain.left) + 1
        if self.reloader is not None:
            self.reloader.stop()
        await super().shutdown(sockets)

    def _left(self) -> bool:
        """Goes on with leaving; whether it is over."""
        drain = self.drain
        if self._leaves and drain.stage == "serving":
            drain.begin()
            self.connection_limits.close_behind_answers()
        return self._leaves and drain.advance(busy=any(one.is_busy for one in self.connection_limits.open))


class Config(LimitedConfig):
    """uvicorn's settings, from ours."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        super().__init__(
            app,
            host=settings.host,
            port=settings.port,
            http=Connection,
            ws="none",
            log_config=None,
            access_log=settings.log_level == "debug",
            server_header=False,
            proxy_headers=False,  # `behind_proxy` reads them, where there are any
            backlog=_ACCEPTED_AT_ONCE,
        )
        self.behind_proxy = ProxyHeadersMiddleware(app, trusted_hosts=self.forwarded_allow_ips)  # type: ignore[arg-type]
        self.connection_limits = ConnectionLimits(**_limits(settings))
        if (observer := getattr(app, "observer", None)) is not None:
            self.connection_limits.on_refusal = observer.refused

    def use(self, settings: Settings) -> None:
        """Has the limits of these settings from now on."""
        self.access_log = settings.log_level == "debug"  # of connections from now on
        for name, value in _limits(settings).items():
            setattr(self.connection_limits, name, value)


def _limits(settings: Settings) -> dict[str, Any]:
    """What connections may take, by the names of `ConnectionLimits`."""
    return {
        "max_open": lambda: settings.max_connections or connection_capacity(),
        "max_of_client": settings.max_client_connections,
        "head": min(settings.header_timeout, settings.request_timeout),
        "keep_alive": settings.keep_alive,
        "body": min(settings.body_timeout, settings.request_timeout),
        "body_rate": settings.body_rate,
        "json_bytes": settings.max_body,
        "upload_bytes": settings.max_upload,
        "send": settings.send_timeout,
    }


def connection_capacity() -> int:
    """How many connections the limit on open files allows now: uploads and the store need some too."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    reserved = max(limit // 4, _OTHER_FILES) + _TURNS * _ACCEPTED_AT_ONCE + ConnectionLimits.MAX_CLOSING
    return max(min(limit - reserved, _MAX_CONNECTIONS), _MIN_CONNECTIONS)


def create_server(
    app: ASGIApp, settings: Settings, *, drain: Drain | None = None, reloader: Reloader | None = None
) -> Server:
    """A server for `app`; its `run` ends with the process's signals. `drain`: what `app` goes by; `reloader`: reads the
    settings again."""
    config = Config(app, settings)
    if reloader is not None:
        reloader.give_to(config.use)
    given = drain or Drain(delay=settings.drain_delay, timeout=settings.drain_timeout)
    return Server(config, given, reloader)
