"""A process that runs one block, and tells its parent what it finds as it finds it."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device.blocks import BLOCKS

POISONED = 86  # exit status of a block whose CUDA context is lost; it goes on in a fresh process, behind the last case
# what every block needs
_IMPORTS = ("torch", "transformers", "manyhats.backbone", "manyhats.methods", "tests.every", "device.engine_under_test")


class Run:
    """The block under way. `small`: small shapes and few rounds."""

    device = "cuda"
    small = False
    kernels = "auto"  # of the timed blocks
    out = Path()
    done: frozenset[str] = frozenset()  # cases that are not run again
    end = 0.0
    depth = 0
    pipe: Any = None


def tell(what: dict[str, Any]) -> None:
    """To the parent."""
    Run.pipe.write(json.dumps(what) + "\n")
    Run.pipe.flush()


def report(key: str, value: Any) -> None:
    """A result, kept at once."""
    tell({"key": key, "value": value})


def figure(name: str, value: float) -> None:
    """A figure that has a target; a later one of the same name counts."""
    tell({"figure": name, "value": value})


class _Warnings(logging.Handler):
    """Reports what the engine warns of, such as a call that is left to the reference, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()[:300]
        if text not in self._said:
            self._said.append(text)
            report("warnings", self._said)


def left() -> float:
    """Seconds until the block is ended."""
    return Run.end - time.time()


def attempt(where: str, run: Callable[..., Any], *given: Any) -> Any:
    """`run(*given)`, or None with the failure reported.

    A lost CUDA context ends the process. The block is then run again without this case, and without those direct
    parts of the block that had come to their end and had nothing to hand on.
    """
    if where in Run.done:
        return None
    tell({"begin": where})
    Run.depth += 1
    value = None
    try:
        value = run(*given)
    except Exception as error:
        message = f"{type(error).__name__}: {str(error).strip()[:400]}"
        tell({"error": {"where": where, "message": message, "traceback": _tail(error)}})
        memory = "out of memory" in message
        if ("CUDA error" in message and not memory) or "device-side assert" in message:
            os._exit(POISONED)
    Run.depth -= 1
    tell({"end": where, "over": Run.depth == 1 and value is None})
    return value


def _tail(error: BaseException, count: int = 4) -> list[str]:
    """The last places of a traceback, by paths below the project or site-packages."""
    frames = traceback.extract_tb(error.__traceback__)
    short = [re.sub(r"^.*?((?:site-packages|dist-packages|server/manyhats|tests)/)", r"\1", f.filename) for f in frames]
    short = [name if not name.startswith("/") else Path(name).name for name in short]
    return [f"{name}:{f.lineno} in {f.name}: {f.line}" for name, f in list(zip(short, frames, strict=True))[-count:]]


def child(options: argparse.Namespace) -> None:
    """Imports what all blocks need, then waits for the name of its own."""
    Run.device, Run.small, Run.kernels, Run.out = options.device, options.small, options.kernels, options.out
    Run.pipe = open(options.child, "w", encoding="utf-8")  # noqa: SIM115
    for name in _IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"{name} cannot be imported: {type(error).__name__}: {error}", flush=True)
    order = json.loads(sys.stdin.readline() or "null")
    if order is None:
        return
    Run.done, Run.end = frozenset(order["done"]), time.time() + order["seconds"]
    if Run.device != "cuda":
        import torch

        torch.set_num_threads(1)
    logging.getLogger("manyhats").addHandler(_Warnings())
    name = order["block"]
    attempt(f"block {name}", lambda: importlib.import_module(f"device.{BLOCKS[name].module}").run())
