"""A call into C that keeps the interpreter's lock: nothing in the process runs, and what it is doing is still told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Start
from tests.waiting import wait_until

# SIGUSR1 has the event loop's thread wait in C, with the interpreter's lock, until somebody writes.
_HOLDING = """
import ctypes, os, signal
from manyhats.cli import main

def hold(*_):
    ctypes.PyDLL(None).open({pipe!r}.encode(), os.O_RDONLY)

signal.signal(signal.SIGUSR1, hold)
main()
"""


def test_what_holds_the_interpreter_is_named_and_no_probe_is_answered(serve: Start, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    server = serve(None, "--stall-timeout", "0.5", script=_HOLDING.format(pipe=str(pipe))).wait_ready()
    os.kill(server.pid, signal.SIGUSR1)
    wait_until(lambda: "in hold" in server.text, "the stacks are written")
    assert "Timeout (" in server.text
    assert "watchdog.py" in server.text  # the others, who wait for the lock
    with pytest.raises(httpx.TimeoutException):  # a probe from outside notices
        httpx.get(f"{server.client.base_url}/healthz", timeout=0.5)
    os.close(os.open(pipe, os.O_WRONLY))
    assert server.client.get("/healthz").status_code == 200
    wait_until(lambda: server.client.get("/readyz").status_code == 200, "it goes on")
    assert server.ask("base").status_code == 200
