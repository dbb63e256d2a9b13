"""A page's commands and snippets, run one after another as a reader would: in a copy of what git tracks."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.docs.pages import ROOT, Block

PORT = 8000  # the pages' port; a run takes a free one in its place
READY_S = 300.0
# The pages leave out the recipes that make prints before it runs them.
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "MAKEFLAGS": "s"}
# Runs the Python snippets of a page one after another in one namespace, as in one session.
_SESSION = """
import contextlib, io, json, sys, traceback
names = {"__name__": "__main__"}
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        failed = ""
        try:
            exec(compile(json.loads(line), "<snippet>", "exec"), names)
        except BaseException:
            failed = traceback.format_exc()
    print(json.dumps([out.getvalue(), failed]), flush=True)
"""


def fresh_clone(folder: Path) -> Path:
    """What a clone holds: the files that git tracks, as they are in the working tree now. The tests' own stay out."""
    tracked = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached"], cwd=ROOT, check=True, capture_output=True
    )
    for name in tracked.stdout.decode().split("\0"):
        if name and not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def environment_link(clone: Path) -> None:
    """Gives a clone the environment that the tests run in, as `make install` would have made one there."""
    (clone / ".venv").symlink_to(sys.prefix)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Story:
    """Runs blocks in a folder. Every port of the pages stands for a free one of this machine; closing it ends what it
    started."""

    def __init__(self, folder: Path, ports: dict[int, int] | None = None, **environment: str) -> None:
        """`ports`: servers that run already, by the port that the pages give them."""
        self.folder = folder
        self.ports = dict(ports or {})
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MANYHATS_")}
        self.environment = outside | _ENVIRONMENT | environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self._session: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()
        for process in reversed(self._processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            process.wait(60)

    # ---- blocks

    def run(self, block: Block) -> list[str]:
        """The outputs of a block's commands, or of its snippet. Raises AssertionError where something fails."""
        if block.language == "python":
            return [self.python(block)]
        return [self.command(command) for command, _ in block.steps]

    def command(self, command: str) -> str:
        """What a command writes to stdout; a command that serves is left running once it is ready."""
        words = self._here(command).removesuffix("&").rstrip()
        if re.search(r"\bmanyhats serve\b", words):
            self.start(words)
            return ""
        if words.startswith("curl ") and shutil.which("curl") is None:
            return self._there(_asked(words))
        done = subprocess.run(
            ["bash", "-c", words],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"`{command}` ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return self._there(done.stdout)

    def start(self, command: str, until: str = "") -> str:
        """Starts a server and waits until it is ready, and has written `until`; returns what it wrote to stdout."""
        if not re.search(r"--port \d", command):
            command += f" --port {self._port(PORT)}"
        port = re.findall(r"--port (\d+)", command)[-1]
        out, log = self.folder / f".server-{port}.out", self.folder / f".server-{port}.log"
        with out.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._processes.append(process)
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            assert process.poll() is None, f"`{command}` ended with {process.returncode}:\n{log.read_text()}"
            if until in out.read_text() and _ready(port):
                return self._there(out.read_text())
            time.sleep(0.1)
        raise AssertionError(f"`{command}` was not ready in {READY_S:g} s:\n{log.read_text()}")

    def python(self, block: Block) -> str:
        """What a snippet prints; the snippets of a story share their names."""
        if self._session is None:
            self._session = subprocess.Popen(
                [sys.executable, "-c", _SESSION],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._session.stdin is not None
        assert self._session.stdout is not None
        self._session.stdin.write(json.dumps(self._here(block.content)) + "\n")
        self._session.stdin.flush()
        printed, failed = json.loads(self._session.stdout.readline())
        assert not failed, f"{block}:\n{failed}"
        return self._there(printed)

    def forget(self) -> None:
        """Ends the session of the snippets: the next one begins with no names."""
        if self._session is not None:
            self._session.kill()
            self._session.communicate()
            self._session = None

    # ---- ports

    def _port(self, shown: int) -> int:
        return self.ports.setdefault(shown, free_port())

    def _here(self, text: str) -> str:
        """With this machine's ports in place of the pages'."""
        return re.sub(r"(127\.0\.0\.1:|--port )(80\d\d)\b", lambda m: f"{m[1]}{self._port(int(m[2]))}", text)

    def _there(self, text: str) -> str:
        for shown, real in self.ports.items():
            text = text.replace(f"127.0.0.1:{real}", f"127.0.0.1:{shown}")
        return text

    def _environment(self) -> dict[str, str]:
        return self.environment | {"MANYHATS_URL": f"http://127.0.0.1:{self._port(PORT)}"}


def _ready(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _asked(command: str) -> str:
    """What `curl -s URL [-H HEADER] [-d BODY]` prints, on a machine without curl."""
    words = [word for word in shlex.split(command)[1:] if word not in ("-s", "\n")]
    url = words.pop(0)
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert set(options) <= {"-H", "-d"}, f"only -s, -H and -d are known here: {command}"
    headers = dict([options["-H"].split(": ", 1)]) if "-H" in options else {}
    content = options["-d"].encode() if "-d" in options else None
    method = "GET" if content is None else "POST"
    return httpx.request(method, url, content=content, headers=headers, timeout=60, trust_env=False).text
