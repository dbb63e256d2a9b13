"""The command line: `manyhats serve`, `push`, `tasks`, `predict`, `train`, ..."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from manyhats._version import __version__
from manyhats.api.address import check_address
from manyhats.api.exposure import check_exposure
from manyhats.commands import audit, convert, doctor, keys, predict, remote, scale, tasks
from manyhats.commands import gc as gc_command
from manyhats.commands.lazy import LazyCommand, LazyFigures
from manyhats.commands.setting_options import Switches, given_settings, with_settings
from manyhats.engine.freed_memory import keep_freed_memory
from manyhats.engine.long_lived import keep_for_good
from manyhats.errors import EngineFailure, ManyhatsError, WrongSetting, WrongUsage
from manyhats.observability import logs
from manyhats.observability.stacks import StackDumps
from manyhats.settings import Settings, load_settings

_ENDING = 60.0  # seconds beside those for draining, after which a server whose engine has given up ends at once

app = typer.Typer(
    name="manyhats",
    help="One frozen backbone, many tasks and methods, one batch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command(cls=Switches)
@with_settings
def serve(config: Path | None = None, **options: Any) -> None:
    """Starts the server. An option wins over its environment variable, and that over the settings file."""
    # uvicorn raises a signal again when it has ended; and a container's first process has no handler of its own.
    # Not sys.exit: an exception raised at any point of the start may be swallowed there.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: os._exit(0))
    keep_freed_memory()  # before a library begins a thread, which would get a heap of its own
    reloads: list[Callable[[], None]] = []  # empty until there is something to reload
    if hasattr(signal, "SIGHUP"):  # its own effect would be the end
        signal.signal(signal.SIGHUP, lambda *_: [reload() for reload in reloads])
    settings = load_settings(config, **given_settings(options))
    logs.configure(settings.log_level, settings.log_format)
    check_exposure(settings)
    if not settings.backbone:
        raise WrongSetting("no backbone: give --backbone a folder, a hub id or package:NAME")
    check_address(settings)
    # Here, so that what is wrong so far is said before torch is loaded.
    from manyhats.api.app import create_app
    from manyhats.api.reload import Reloader
    from manyhats.api.server import create_server
    from manyhats.runtime import Runtime

    runtime = Runtime(settings)
    runtime.on_ready = keep_for_good
    runtime.open()
    application = create_app(runtime)
    reloader = Reloader(settings, lambda: load_settings(config, **given_settings(options)))
    reloader.give_to(runtime.access.use, in_thread=True)
    for holder in (_use_log_level, runtime.use, application.use):
        reloader.give_to(holder)
    server = create_server(application, settings, drain=application.drain, reloader=reloader)
    reloads.append(server.reload)

    def end_server() -> None:
        server.should_exit = True
        late = threading.Timer(settings.drain_timeout + _ENDING, os._exit, [1])
        late.daemon = True
        late.start()

    runtime.on_fatal = end_server
    dumps = StackDumps(settings.stall_timeout)
    runtime.watchdog.on_look = dumps.put_off
    dumps.put_off()  # the watchdog's first look may come too late
    try:
        server.run()
    except SystemExit as end:  # uvicorn has logged why, but has a code of its own
        sys.exit(1 if end.code else 0)
    except KeyboardInterrupt:  # the server has stopped
        pass
    finally:
        dumps.stop()
    if runtime.fatal:
        raise EngineFailure(runtime.fatal)


def _use_log_level(settings: Settings) -> None:
    logs.set_level(settings.log_level)


app.command("push")(remote.push)
app.command("download")(remote.download)
app.command("tasks")(tasks.tasks)
app.command("show")(tasks.show)
app.command("set")(tasks.configure)
app.command("alias")(tasks.alias)
app.command("rollback")(tasks.rollback)
app.command("delete")(tasks.delete)
for _verb, _text in {
    "load": "Loads a task's adapter into a slot.",
    "unload": "Gives back the memory of a task's adapters.",
    "lift": "Has a task asked again that was quarantined for its faults.",
    "pin": "Keeps a task's adapter in a slot.",
    "unpin": "Lets a task's adapter be evicted again.",
}.items():
    app.command(_verb)(tasks.placement(_verb, _text))
app.command("predict")(predict.predict)
app.command("audit")(audit.audit)
app.add_typer(keys.app, name="keys")


@app.command(
    "train",
    cls=LazyCommand,
    help="Trains an adapter for a task, compares it with simple baselines, and writes it with its model card.",
)
def _train() -> Callable[..., None]:
    from manyhats.commands.train import train  # its options name the kinds, with which torch is loaded

    return train


@app.command(
    "bench",
    cls=LazyFigures,
    help="Measures what a store's tasks cost beyond the bare backbone, and what HTTP costs beyond the engine.",
)
def _bench() -> Callable[..., None]:
    from manyhats.commands.bench import bench  # it loads torch

    return bench


@app.command("migrate", cls=LazyCommand, help="Brings a store's database to the schema of this Manyhats.")
def _migrate() -> Callable[..., None]:
    from manyhats.commands.stores import migrate  # it loads SQLAlchemy

    return migrate


@app.command("backup", cls=LazyCommand, help="Copies a store into one file, while servers run.")
def _backup() -> Callable[..., None]:
    from manyhats.commands.stores import backup

    return backup


@app.command("restore", cls=LazyCommand, help="Puts a backup into an empty store.")
def _restore() -> Callable[..., None]:
    from manyhats.commands.stores import restore

    return restore


app.command("scale", cls=Switches)(scale.scale)
app.command("gc")(gc_command.gc)
app.command("convert")(convert.convert)
app.command(
    "doctor",
    help="Says what this machine offers, what would be used, what is in the way, and whether a server answers.",
)(doctor.doctor)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Runs a command. Exit codes: 0 well, 2 wrong usage, 1 anything else, with one line that says why."""
    try:
        app()
    except ManyhatsError as error:
        typer.echo(f"manyhats: {error.message}", err=True)
        sys.exit(2 if isinstance(error, WrongSetting | WrongUsage) else 1)


if __name__ == "__main__":
    main()
