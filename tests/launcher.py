"""Starts processes quickly: imports everything once, and makes every one by a fork.

Reads one JSON command a line and answers each with one line:
{"start": [arguments], "log": path, "file_limit": bytes or null, "environment": {...}} -> its process id, of `manyhats`
with these arguments, or with "script" of that script with them, and "needs" names the modules that it imports;
{"wait": id} -> its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

from manyhats.cli import main

# What a command of `manyhats` would otherwise import in each of its processes.
NEEDED = {
    "serve": ("manyhats.api.app", "manyhats.runtime"),
    "train": ("manyhats.training.job", "accelerate", "sklearn.linear_model", "matplotlib.figure"),
}


def child(command: dict[str, Any]) -> NoReturn:
    """Becomes `manyhats ...`, as its console script would, or `python -c script ...`."""
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(command.get("environment") or {})
    if command.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_limit"], command["file_limit"]))
    script = command.get("script")
    sys.argv = ["-c" if script else "manyhats", *command["start"]]
    code: Any = 1
    try:
        if script:
            exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
        else:
            main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def serve_commands() -> None:
    children: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            for name in command.get("needs") or NEEDED[command["start"][0]]:
                importlib.import_module(name)
            gc.freeze()  # a collection in the child would write to every page, and so copy them all
            answer = os.fork()
            if not answer:
                child(command)
            children.add(answer)
        else:
            _, status = os.waitpid(command["wait"], 0)
            children.discard(command["wait"])
            answer = os.waitstatus_to_exitcode(status)
        print(answer, flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # what the libraries tidy up takes longer than their import


if __name__ == "__main__":
    serve_commands()
