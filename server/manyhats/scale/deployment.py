"""The deployment for Ray Serve: fronts, which Ray's HTTP proxies pass requests to, and replicas behind them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from manyhats.engine.long_lived import keep_for_good
from manyhats.scale.autoscaling import METRIC, QueueDepth
from manyhats.scale.exchange import Asked, Begun
from manyhats.scale.front import Front, Limits, Transport
from manyhats.scale.options import FRONT, REPLICA, Scaling
from manyhats.scale.sharing import shares, version_of
from manyhats.settings import Settings

_LOOK_BACK = 15.0  # seconds over which the depth of queues is averaged, at least: Ray has a figure each ten
_HEALTH = 2.0  # seconds between looks at a replica
_HEALTH_TIMEOUT = 120.0  # seconds that one may take to answer: the watchdog inside knows sooner what hangs
_ROUTER = "manyhats.scale.router.AffinityRouter"
_READ_ONLY = (
    "the replicas share no database, so that a change would reach one of them alone: copy adapters into the store's "
    "folder and deploy again, or set database_url"
)


class ReplicaActor:
    """`Replica` as Ray Serve starts, asks and ends it."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        from manyhats.scale.replica import Replica  # it loads torch, which no other process needs

        self.replica = Replica(settings, serve.get_replica_context().replica_tag)
        self.replica.runtime.on_ready = keep_for_good
        await self.replica.start()

    async def ask(self, asked: Asked) -> AsyncIterator[Begun | bytes]:
        """The answer to one request."""
        answer = self.replica.ask(asked)
        try:
            async for piece in answer:
                yield piece
        finally:
            await answer.aclose()  # type: ignore[attr-defined]  # it is a generator

    def figures(self) -> dict[str, Any]:
        """What it has done."""
        return self.replica.figures()

    def check_health(self) -> None:
        """Raises EngineFailure where it cannot go on."""
        self.replica.check_health()

    def record_routing_stats(self) -> dict[str, Any]:
        """What routers learn of it."""
        return {"holds": self.replica.held_tasks()}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the number of replicas goes by."""
        return {METRIC: float(self.replica.depth())}

    async def __del__(self) -> None:
        if hasattr(self, "replica"):
            await self.replica.stop()


@serve.ingress()
class FrontActor:
    """`Front` in a process of its own."""

    def __init__(self, replicas: DeploymentHandle, limits: Limits) -> None:
        self._ask = replicas.options(method_name="ask", stream=True)
        full = (BackPressureError, DeploymentUnavailableError)
        self.front = Front(Transport(self.ask, self.store, lost=(RayActorError,), full=full), limits)

    def __serve_build_asgi_app__(self) -> Front:
        """What Ray Serve passes requests to."""
        return self.front

    async def ask(self, asked: Asked) -> AsyncIterator[Begun | bytes]:
        """The answer of a replica. Where nobody waits for it any more, the replica learns of it."""
        answer = self._ask.remote(asked)
        try:
            async for piece in answer:
                yield piece
        except BaseException:
            answer.cancel()
            raise

    async def store(self, part: bytes) -> Any:
        """Part of a body, in Ray's store, from which it may go to the disk."""
        return ray.put(part)


def application(settings: Settings, scaling: Scaling) -> Any:
    """What `serve.run` takes."""
    limits = Limits(
        max_body=settings.max_body,
        max_upload=settings.max_upload,
        request_timeout=settings.request_timeout,
        read_only="" if shares(settings) else _READ_ONLY,
    )
    return _fronts(settings, scaling, limits).bind(_replicas(settings, scaling).bind(settings), limits)


def _replicas(settings: Settings, scaling: Scaling) -> Any:
    number: dict[str, Any] = {"num_replicas": scaling.replicas}
    if scaling.scales:
        policy = AutoscalingPolicy(policy_function=QueueDepth, policy_kwargs={"target": scaling.target_depth})
        number = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scaling.min_replicas,
                max_replicas=scaling.max_replicas,
                upscale_delay_s=scaling.upscale_delay,
                downscale_delay_s=scaling.downscale_delay,
                look_back_period_s=max(scaling.upscale_delay, _LOOK_BACK),
                policy=policy,
            )
        }
    made = serve.deployment(
        ReplicaActor,
        name=REPLICA,
        max_ongoing_requests=scaling.max_ongoing,
        max_queued_requests=scaling.max_queued,
        ray_actor_options={"num_cpus": scaling.cpus, "num_gpus": scaling.gpus},
        request_router_config=_router(scaling),
        health_check_period_s=_HEALTH,
        health_check_timeout_s=_HEALTH_TIMEOUT,
        graceful_shutdown_timeout_s=settings.drain_timeout + settings.request_timeout,
        graceful_shutdown_wait_loop_s=0.5,
        # One by one: the next is ready before one goes, so that none is missing meanwhile.
        rolling_update_percentage=1 / max(scaling.most, 1),
        max_surge_percent=1,
        **number,
    )
    # Only what starts with autoscaling reports the depth of its queue.
    return _versioned(made, settings.model_dump() | {"scales": scaling.scales})


def _router(scaling: Scaling) -> RequestRouterConfig:
    if not scaling.affinity:
        return RequestRouterConfig(request_routing_stats_period_s=scaling.holdings_period)
    return RequestRouterConfig(
        request_router_class=_ROUTER,
        request_router_kwargs={"spread": scaling.spread, "slack": scaling.slack},
        request_routing_stats_period_s=scaling.holdings_period,
    )


def _fronts(settings: Settings, scaling: Scaling, limits: Limits) -> Any:
    made = serve.deployment(
        FrontActor,
        name=FRONT,
        num_replicas=scaling.fronts,
        max_ongoing_requests=4 * scaling.max_ongoing,
        max_queued_requests=scaling.max_queued,
        ray_actor_options={"num_cpus": 0},
        health_check_timeout_s=_HEALTH_TIMEOUT,
        graceful_shutdown_timeout_s=math.ceil(settings.drain_timeout + settings.request_timeout),
        graceful_shutdown_wait_loop_s=0.5,
        max_surge_percent=1,
    )
    return _versioned(made, asdict(limits))


def _versioned(made: Any, values: Mapping[str, Any]) -> Any:
    """A deployment whose processes stay where another with the same values takes its place: without a version of its
    own, Ray gives each a new one, and replaces all. Ray has this for itself, and nothing else for it."""
    return made.options(version=version_of(values), _internal=True)
