"""`manyhats doctor`: what this machine offers and what would be used."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from manyhats import supported
from manyhats._version import __version__
from manyhats.commands.connection import DEFAULT_URL, Key, Url, connected, print_json
from manyhats.commands.extras import extras
from manyhats.errors import ManyhatsError, UnsupportedVersion
from manyhats.registry.store_state import OWN_FOLDER, existing, store_state
from manyhats.settings import load_settings

_BESIDE = " now; a server takes half of what is free beside its backbone, and beside keys and values (cache_memory)"


_PATIENCE = 5.0  # seconds for a server to answer


def doctor(
    store: Annotated[str, typer.Option(help="the store, as for `manyhats serve`", show_default=False)] = "",
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="print it as a JSON object")] = False,
) -> None:
    """Says what this machine offers, what would be used, what is in the way, and whether a server answers.

    Raises UnsupportedVersion where torch or transformers is one that is not supported, WrongSetting for a store that
    is no folder.
    """
    versions = supported.installed()
    rows = {"manyhats": __version__, "python": platform.python_version()} | versions
    settings = load_settings(None, **({"store": store} if store else {}))
    folder = settings.store
    if wrong := supported.problem(versions):
        _print(rows, as_json)
        raise UnsupportedVersion(wrong)
    import torch  # here, so that commands that only talk to a server start quickly

    from manyhats.backbone.device_memory import device_memory, host_memory, in_gib
    from manyhats.backbone.loading import choose_device
    from manyhats.backbone.precision import native_bfloat16
    from manyhats.engine.pass_size import described as described_pass
    from manyhats.kernels.registry import choose, described
    from manyhats.registry.slot_memory import slot_memory
    from manyhats.registry.stores.looking import database_state

    device = choose_device("auto")
    memory = device_memory(device)
    rows |= {
        "torch": torch.__version__,  # with its build
        "processor": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}",
        "threads of the model": str(torch.get_num_threads()),
        "memory": str(host_memory() or "not known"),
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
    rows |= {f"extra {name}": state for name, state in extras().items()}
    disk = shutil.disk_usage(existing(folder))
    rows |= {
        "store": f"{folder.absolute()}: {store_state(folder)}",
        "database": database_state(settings.database_url, folder / OWN_FOLDER),
        "disk of the store": f"{in_gib(disk.free)} of {in_gib(disk.total)} free",
        "server": f"{url}: {_server(url, key)}",
    }
    _print(rows, as_json)


def _server(url: str, key: str) -> str:
    try:
        with connected(url, key, timeout=_PATIENCE) as client:
            client.health()
            state = "ready" if client.ready() else "starting or draining"
            count = sum(1 for _ in client.tasks(1000))
    except ManyhatsError as error:
        return error.message
    return f"{state}, {count} tasks"


def _print(rows: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        print_json(dict(rows))
        return
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, Text(value, overflow="fold"))  # no markup: paths and names may look like it
    Console().print(table)


def _cuda() -> str:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
