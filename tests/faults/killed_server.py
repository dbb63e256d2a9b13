"""A server in this process, on a backbone that was loaded before the process was made, which can end at any line.

Imported by the launcher, it loads the backbone once; every server is a fork of that. A request with the header
`X-Kill-At: 17` ends the process with SIGKILL at the 17th line that is run from then on, in any thread, of what writes
the store, or of what shutil does for it. `GET /lines` says how many there were since a request with that header.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import manyhats
from manyhats.api.app import create_app
from manyhats.api.server import create_server
from manyhats.runtime import Runtime
from manyhats.settings import Settings

from tests import tiny

PACKAGE = Path(manyhats.__file__).parent
# What writes the store, and what leads to it and from it to the answer.
_COUNTED = (
    *(str(PACKAGE / name) for name in ("registry/", "api/", "runtime.py", "disk.py", "formats/", "serving/threads.py")),
    str(Path(shutil.__file__)),
)
_NEVER = 1 << 60
HEADER = b"x-kill-at"

# What a server imports as it starts, so that its fork need not.
for _name in (
    *("anyio._backends._asyncio", "sqlalchemy.dialects.sqlite", "uvicorn.lifespan.on", "uvicorn.loops.auto"),
    *("psycopg", "sqlalchemy.dialects.postgresql.psycopg", "manyhats.registry.stores.postgresql"),
):
    import_module(_name)

with tempfile.TemporaryDirectory() as _folder:
    BACKBONE = tiny.load(tiny.write_base("bert", Path(_folder)))


class Points:
    """Counts lines, and ends the process at one of them."""

    def __init__(self) -> None:
        self.end = _NEVER
        self.count = itertools.count(1)
        self.armed = False

    def arm(self, end: int) -> None:
        """From now on lines are counted."""
        self.end = end or _NEVER
        self.count = itertools.count(1)
        self.armed = True

    def watch(self) -> None:
        """For this thread, and all that begin later."""
        threading.settrace(self._called)
        sys.settrace(self._called)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(_COUNTED) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.armed and event == "line" and next(self.count) == self.end:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._line


class Counted:
    """The application, with a header and a path for the points."""

    def __init__(self, app: Any, points: Points) -> None:
        self._app, self._points = app, points

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if (end := dict(scope["headers"]).get(HEADER)) is not None:
                self._points.arm(int(end))
            elif scope["path"] == "/lines":
                body = str(next(self._points.count)).encode()
                self._points.armed = False
                head = [(b"content-length", str(len(body)).encode())]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)


def serve(store: Path, folders: Path, database_url: str = "") -> None:
    """Serves until it is killed; says its port when it listens."""
    settings = Settings(
        store=store,
        database_url=database_url,
        adapter_folders=(folders,),
        self_check=False,
        max_versions=10_000,
        scan_interval=0.2,
        threads=1,
    )
    runtime = Runtime(settings, backbone=BACKBONE)
    runtime.imports._settled = -1.0  # a copied folder counts as copied at once
    runtime.open()
    points = Points()
    points.watch()
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    print("port", listening.getsockname()[1], flush=True)
    create_server(Counted(create_app(runtime), points), settings).run(sockets=[listening])
