"""`manyhats`, and small scripts, in processes of their own that can be killed, stopped, and given little room."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[1]


class Launcher:
    """The process that makes the others: see `tests/launcher.py`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.launcher"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        )

    def tell(self, command: dict[str, Any]) -> int:
        """Sends a command and gives its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the launcher has ended"
        return int(answer)

    def close(self) -> None:
        """Ends it, and all that it has started."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


class Process:
    """One `manyhats ...`, or a script with its arguments; `needs`: the modules that it imports.

    `log`: the file with all that it says.
    """

    def __init__(
        self,
        launcher: Launcher,
        log: Path,
        arguments: list[str],
        *,
        script: str | None = None,
        needs: Sequence[str] = (),
        file_limit: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._launcher = launcher
        self.log = log
        how = {"script": script, "needs": list(needs), "file_limit": file_limit, "environment": environment}
        self.pid = launcher.tell({"start": arguments, "log": str(log), **how})
        self.code: int | None = None

    @property
    def text(self) -> str:
        """What it has said."""
        return self.log.read_text() if self.log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def end(self) -> int:
        """Waits for its end; its exit code."""
        if self.code is None:
            self.code = self._launcher.tell({"wait": self.pid})
        return self.code

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self.code is None:
            self.send(signal.SIGKILL)
            self.end()
