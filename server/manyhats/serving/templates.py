"""Renders chat templates within limits of time and memory, in separate processes."""

from __future__ import annotations

import atexit
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from manyhats.errors import EngineFailure, InputTooLong, InvalidRequest, Overloaded
from manyhats.serving import template_process

COMPUTING = 1.0  # seconds of CPU time for one text
ELAPSED = 3.0  # seconds of wall-clock time, where the CPU time is not limited or the CPU is busy
_WAITING = 5.0  # seconds to wait for a free process
_WATCHED = 600.0  # seconds that a template which took too long is watched
_MAX_WATCHED = 1000
_MAX_BYTES_PER_CHARACTER = 12  # of JSON
_PROF = getattr(signal, "SIGPROF", 0)  # ends a process that has used up its CPU time


class TemplateProcesses:
    """Renders for many threads at once. Processes are started on demand and reused; one that is killed is replaced.

    A template that exceeded a limit is watched for a while: only one of those is rendered at a time, so that they
    cannot occupy all processes.
    """

    def __init__(self, max_processes: int = 2, *, computing: float = COMPUTING, elapsed: float = ELAPSED) -> None:
        self.max_processes = max_processes
        self.computing = computing
        self.elapsed = elapsed
        self._changed = threading.Condition()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: set[subprocess.Popen[bytes]] = set()
        self._users = 0
        self._watched: OrderedDict[bytes, float] = OrderedDict()  # until when, `time.monotonic()`
        self._watched_busy = threading.Lock()

    def render(self, template: str, variables: Mapping[str, Any], max_length: int) -> str:
        """The text of a template with some JSON values in it, as transformers' `apply_chat_template` makes it.

        Raises InvalidRequest where the template does, or takes too much time or memory; InputTooLong for more than
        `max_length` characters; Overloaded where no process is free.
        """
        request = {"template": template, "variables": variables, "max_length": max_length, "seconds": self.computing}
        try:
            data = json.dumps(request).encode()
        except (RecursionError, ValueError) as error:
            raise InvalidRequest(f"the messages cannot be read: {error}", param="messages") from None
        key = hashlib.sha256(template.encode(errors="surrogatepass")).digest()
        with self._admitted(key):
            answer = self._exchange_with_any(data, key, max_length * _MAX_BYTES_PER_CHARACTER + 10_000)
        match answer.get("kind"):
            case None:
                return str(answer["text"])
            case "memory":
                self._watch(key)
                raise _refused("takes too much memory")
            case "length":
                raise InputTooLong(
                    f"the prompt that the chat template makes has more than {max_length} characters", param="messages"
                )
            case _:
                raise _refused(f"refuses the messages: {answer['error']}")

    def close(self) -> None:
        """Ends the processes."""
        with self._changed:
            processes, self._idle = [*self._idle, *self._busy], []
        for process in processes:
            _end(process)

    # ---- admission

    @contextmanager
    def _admitted(self, key: bytes) -> Iterator[None]:
        watched = self._watched.get(key, 0.0) > time.monotonic()
        if watched and not self._watched_busy.acquire(blocking=False):
            raise Overloaded("a chat template that took too long before is being rendered; try again later")
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: self._users < self.max_processes, _WAITING):
                    raise Overloaded("chat templates wait too long to be rendered; try again later")
                self._users += 1
            try:
                yield
            finally:
                with self._changed:
                    self._users -= 1
                    self._changed.notify()
        finally:
            if watched:
                self._watched_busy.release()

    def _watch(self, key: bytes) -> None:
        with self._changed:
            self._watched.pop(key, None)
            self._watched[key] = time.monotonic() + _WATCHED
            if len(self._watched) > _MAX_WATCHED:
                self._watched.popitem(last=False)

    # ---- processes

    def _exchange_with_any(self, data: bytes, key: bytes, max_bytes: int) -> dict[str, Any]:
        """The answer to one request, of at most so many bytes; a process that fails to answer is ended."""
        for _ in range(2):  # an idle process may have ended
            process, used = self._acquire()
            answer, timed_out = self._try(process, data, max_bytes)
            if answer is not None:
                return answer
            if timed_out or process.returncode == -_PROF or not used:
                break
        self._watch(key)
        raise _refused(f"takes too long, more than {self.computing:g} s, or ends its process")

    def _try(self, process: subprocess.Popen[bytes], data: bytes, max_bytes: int) -> tuple[dict[str, Any] | None, bool]:
        """The answer, if there is one, and whether it timed out."""
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(self.elapsed, stop)
        timer.daemon = True
        timer.start()
        answer: dict[str, Any] | None = None
        try:
            answer = _exchange(process, data, max_bytes)
        except (OSError, ValueError):  # it has ended
            pass
        finally:
            timer.cancel()
            keep = answer is not None and answer.get("kind") != "memory" and not timed_out.is_set()
            with self._changed:
                self._busy.discard(process)
                if keep:
                    self._idle.append(process)
            if not keep:
                _end(process)
        return answer, timed_out.is_set()

    def _acquire(self) -> tuple[subprocess.Popen[bytes], bool]:
        """A process, and whether it has been used before."""
        with self._changed:
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    self._busy.add(process)
                    return process, True
                _end(process)
        process = _start()
        with self._changed:
            self._busy.add(process)
        return process, False


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"the chat template {why}", param="messages")


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", template_process.__file__]  # by its path, since it does not import this package
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # interrupts from the terminal are for this process only
        )
    except OSError as error:
        raise EngineFailure(f"the process that renders chat templates cannot be started: {error}") from error


def _exchange(process: subprocess.Popen[bytes], data: bytes, max_bytes: int) -> dict[str, Any]:
    """Raises OSError or ValueError where the process ends before it has answered, or answers more than it may."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(len(data).to_bytes(8, "big") + data)
    process.stdin.flush()
    size = int.from_bytes(process.stdout.read(8), "big")
    if size > max_bytes:
        raise ValueError("the answer is too long")
    answer: dict[str, Any] = json.loads(process.stdout.read(size))
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # the rest of the input has no reader
                pipe.close()


OWN = TemplateProcesses()  # for the backbone's template, so that tasks' cannot delay it
OTHERS = TemplateProcesses()  # for tasks' templates
atexit.register(OWN.close)
atexit.register(OTHERS.close)
