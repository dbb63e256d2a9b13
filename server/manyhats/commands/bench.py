"""`manyhats bench`: what tasks and HTTP cost beyond the bare backbone, for a store's own tasks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from manyhats.bench.machine import machine
from manyhats.bench.profiling import profile
from manyhats.bench.report import as_json, publish
from manyhats.bench.server import serving
from manyhats.bench.suite import Effort, engine_figures, http_figures, memory_figures
from manyhats.bench.tasks import load_tasks, read_texts, unload
from manyhats.commands.connection import print_json
from manyhats.runtime import Runtime
from manyhats.settings import load_settings


class Dtype(StrEnum):
    """The values of the setting."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def bench(
    backbone: Annotated[
        str, typer.Option(help="the frozen model, as for `manyhats serve`", envvar="MANYHATS_BACKBONE")
    ],
    store: Annotated[
        Path, typer.Option(help="folder of the adapters, as for `manyhats serve`", envvar="MANYHATS_STORE")
    ] = Path("adapters_store"),
    task: Annotated[list[str] | None, typer.Option(help="a task to measure; may be repeated. None: all")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="a file with one text a line; none: sentences that come with the package")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="of the model")] = Dtype.auto,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the model; 0 leaves torch's choice")] = 0,
    slots: Annotated[int, typer.Option(min=1, help="maximum adapters on the device")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="how often the sides are measured, in turn")] = 7,
    seconds: Annotated[float, typer.Option(min=0.5, help="seconds of each load over HTTP")] = 8.0,
    connections: Annotated[int, typer.Option(min=1, max=1024, help="connections over HTTP")] = 64,
    http: Annotated[bool, typer.Option(help="measure a server over HTTP too")] = True,
    profile_to: Annotated[
        Path | None,
        typer.Option("--profile", help="a folder for a trace (chrome://tracing) and times by site and method"),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="a file for the figures; alone, or -: stdout, and the table on stderr")
    ] = None,
) -> None:
    """Measures what a store's tasks cost beyond the bare backbone, and what HTTP costs beyond the engine.

    No other server may have the store open. Nothing in it is changed, but for folders that a server would import too.
    """
    chosen = {
        "backbone": backbone,
        "store": store,
        "dtype": dtype.value,
        "device": device,
        "threads": threads,
        "slots": slots,
    }
    settings = load_settings(None, **{name: str(value) for name, value in chosen.items()})
    lines = read_texts(texts)
    effort = Effort(rounds, seconds, connections)
    to_stdout = json_file == Path("-")
    console = Console(stderr=to_stdout)
    runtime = Runtime(settings)
    runtime.open()
    about = machine()
    try:
        tasks = load_tasks(runtime, task or [])
        title = f"{backbone}, {str(runtime.backbone.dtype).removeprefix('torch.')}, {len(tasks)} tasks"
        figures, rates = engine_figures(runtime, tasks, lines, effort)
        figures += memory_figures(runtime, tasks)
        if profile_to is not None:
            profile(runtime, tasks, lines, profile_to, console)
        asked = {one.name: one.generates for one in tasks if one.generates or one.measured}
        unload(runtime, tasks)
    finally:
        runtime.close()
    if http and asked:
        with serving(chosen | {"preload": len(tasks), "log_level": "warning"}) as server:
            figures += http_figures(server, asked, lines, rates, effort)
    about |= {"backbone": backbone, "dtype": str(runtime.backbone.dtype)}
    publish(title, about, figures, None if to_stdout else json_file, console)
    if to_stdout:
        print_json(as_json(about, figures))
