"""`manyhats doctor`: what this machine offers and what would be used."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from manyhats import supported
from manyhats._version import __version__
from manyhats.errors import UnsupportedVersion

_BESIDE = " now; a server takes half of what is free beside its backbone, and beside keys and values (cache_memory)"


def doctor() -> None:
    """Says what this machine offers and what would be used.

    Raises UnsupportedVersion where torch or transformers is one that is not supported.
    """
    versions = supported.installed()
    rows = {"manyhats": __version__, "python": platform.python_version()} | versions
    if wrong := supported.problem(versions):
        _print(rows)
        raise UnsupportedVersion(wrong)
    import torch  # here, so that commands that only talk to a server start quickly

    from manyhats.backbone.device_memory import device_memory
    from manyhats.backbone.loading import choose_device
    from manyhats.backbone.precision import native_bfloat16
    from manyhats.engine.pass_size import described as described_pass
    from manyhats.kernels.registry import choose, described
    from manyhats.registry.slot_memory import slot_memory

    device = choose_device("auto")
    memory = device_memory(device)
    rows |= {
        "torch": torch.__version__,  # with its build
        "processor": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}",
        "threads of the model": str(torch.get_num_threads()),
        "cuda": _cuda() if torch.cuda.is_available() else "no",
        "mps": "yes" if torch.backends.mps.is_available() else "no",
        "device that would be used": str(device),
        "memory of the device": "the machine's" if memory is None else str(memory),
        "slot_memory by default": str(slot_memory(0, device)) + (_BESIDE if device.type == "cuda" else ""),
        "kernels that would be used": choose(device).name,
        "other kernels": "; ".join(f"{name}: {state}" for name, state in described(device).items()),
        "dtype that would be used": "bfloat16, if the answers agree" if native_bfloat16(device) else "float32",
    }
    rows["tokens of a pass"] = described_pass(device)
    _print(rows)


def _print(rows: Mapping[str, str]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _cuda() -> str:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
