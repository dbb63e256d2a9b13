"""Starts a cluster of this machine's processes, or joins one, and runs the deployment on it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from manyhats.api.address import check_address
from manyhats.api.exposure import check_exposure
from manyhats.errors import ConfigurationError, NotReady, WrongSetting
from manyhats.messages import first_line
from manyhats.observability import logs
from manyhats.scale.options import APP, REPLICA, Scaling
from manyhats.scale.sharing import shares
from manyhats.settings import Settings

logger = logging.getLogger(__name__)

# Read by Ray when it is imported. Nothing is sent anywhere, and no port is opened but those that a cluster needs.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_worker_niceness": "0",  # the replicas are what such a machine is for
    # Where all cores are busy a process takes its time to start; Ray would end what is on its way.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1.0",
}
_OBJECTS = 256 << 20  # bytes of Ray's store on this machine: bodies of uploads pass through it, and may go to the disk


def check(settings: Settings, *, listens: bool) -> None:
    """Raises WrongSetting or ConfigurationError for settings that cannot work, before anything is started.

    `listens`: whether this machine's port is to be free. The log is as they say from now on.
    """
    logs.configure(settings.log_level, settings.log_format)
    check_exposure(settings)
    if not settings.backbone:
        raise WrongSetting("no backbone: give --backbone a folder, a hub id or package:NAME")
    if shares(settings) and not getattr(settings, "blobs_url", ""):
        raise WrongSetting(
            "database_url is set, and blobs_url is not: each replica would have the others' tasks without their files; "
            "give --blobs-url a folder that all replicas see, or s3://bucket/prefix"
        )
    if listens:
        check_address(settings)


@contextmanager
def cluster(scaling: Scaling, address: str = "", objects: int = _OBJECTS) -> Iterator[None]:
    """A cluster of this machine alone, on its loopback address, that ends with the block; or the one at `address`
    (`auto`, `HOST:PORT`), which goes on.

    Raises ConfigurationError where Ray is not installed, or the cluster does not start or answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise ConfigurationError(f"`manyhats scale` needs Ray Serve: pip install 'manyhats[ray]' ({error})") from None
    own: dict[str, Any] = {
        "num_cpus": max(os.cpu_count() or 1, int(scaling.cpus * (scaling.most + 1)) + 1),
        "object_store_memory": objects,
        "include_dashboard": False,
    }
    try:
        ray.init(address=address or "local", log_to_driver=True, **({} if address else own))
    except Exception as error:
        raise ConfigurationError(f"the Ray cluster cannot be used: {first_line(error)}") from None
    try:
        yield
    finally:
        _replicas.cache_clear()
        if not address:
            serve.shutdown()
        ray.shutdown()


def deploy(settings: Settings, scaling: Scaling) -> None:
    """Runs the deployment, or brings the one that runs to these settings, one replica after the other; waits for it.

    Raises NotReady where Ray gives up.
    """
    from ray import serve
    from ray.exceptions import RayError

    from manyhats.scale.deployment import application

    try:
        serve.start(http_options={"host": settings.host, "port": settings.port})
        serve.run(
            application(settings, scaling), name=APP, route_prefix="/", logging_config={"enable_access_log": False}
        )
    except (RuntimeError, RayError) as error:
        raise NotReady(f"the deployment does not run: {first_line(error)}; Ray's log of the replica says why") from None
    logger.info("ready: http://%s:%d", settings.host, settings.port)


def figures() -> list[dict[str, Any]]:
    """What every replica says of itself."""
    from ray.exceptions import RayActorError

    while True:
        try:
            found: list[dict[str, Any]] = _replicas().broadcast("figures").results()
            return found
        except RayActorError:  # one has just ended; the next call does not ask it
            time.sleep(0.1)


@cache
def _replicas() -> Any:
    from ray import serve

    return serve.get_deployment_handle(REPLICA, APP)


def end_on_signals() -> None:
    """Has SIGTERM and SIGINT end the process by leaving what it is in, so that a cluster of its own ends with it."""
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, _leave)


def _leave(*_: object) -> NoReturn:
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.SIG_IGN)  # leaving takes seconds, and a second signal would break it off
    sys.exit(0)
