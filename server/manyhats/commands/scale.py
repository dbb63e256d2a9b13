"""`manyhats scale`: several replicas of the server behind one address, with Ray Serve."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from manyhats.commands.setting_options import given_settings, with_settings
from manyhats.scale.launcher import check, cluster, deploy, end_on_signals
from manyhats.scale.options import Scaling
from manyhats.settings import load_settings

_OPTIONS: dict[str, Any] = {
    "replicas": (Annotated[int, typer.Option(min=1, help="replicas, where their number does not change")], 2),
    "min_replicas": (
        Annotated[int | None, typer.Option(min=1, help="with --max-replicas: as many as the queues need, at least")],
        None,
    ),
    "max_replicas": (Annotated[int | None, typer.Option(min=1, help="with --min-replicas: at most")], None),
    "target_depth": (
        Annotated[
            float, typer.Option(min=0.1, help="inputs that wait or run in a replica, which their number aims at")
        ],
        32.0,
    ),
    "upscale_delay": (Annotated[float, typer.Option(min=0, help="seconds until more replicas start")], 10.0),
    "downscale_delay": (Annotated[float, typer.Option(min=0, help="seconds until fewer replicas are enough")], 300.0),
    "fronts": (Annotated[int, typer.Option(min=1, help="processes that read requests and pass them on")], 1),
    "replica_cpus": (Annotated[float, typer.Option(min=0, help="CPUs that Ray counts for a replica")], 1.0),
    "replica_gpus": (Annotated[float, typer.Option(min=0, help="GPUs that Ray gives a replica")], 0.0),
    "address": (
        Annotated[
            str, typer.Option(help="a running Ray cluster (auto, HOST:PORT): deploy there and end; none: start one")
        ],
        "",
    ),
}


def _with_scaling(command: Callable[..., None]) -> Callable[..., None]:
    """Puts the options of scaling before those of the settings."""
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    given = inspect.signature(with_settings(command)).parameters.values()
    command.__signature__ = inspect.Signature([*own, *given])  # type: ignore[attr-defined]
    return command


@_with_scaling
def scale(config: Path | None = None, **options: Any) -> None:
    """Serves the same tasks by several replicas behind one address, with Ray Serve (the extra ray)."""
    own = {name: options.pop(name) for name in _OPTIONS}
    address = own.pop("address")
    own |= {"cpus": own.pop("replica_cpus"), "gpus": own.pop("replica_gpus")}
    settings = load_settings(config, **given_settings(options))
    scaling = Scaling(**own)
    check(settings, listens=not address)
    end_on_signals()
    with cluster(scaling, address):
        deploy(settings, scaling)
        while not address:
            signal.pause()
