"""What Ray Serve is told of the deployment, and how its router ranks replicas; no cluster is started."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from manyhats.scale.affinity import preference
from manyhats.scale.exchange import Asked
from manyhats.scale.options import Scaling
from manyhats.settings import Settings

pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, as it is imported


def replica(name: str, **stats: Any) -> Any:
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), routing_stats=stats)


def pending(task: str | None) -> Any:
    return SimpleNamespace(args=[Asked(task, {})], routing_context=SimpleNamespace(should_backoff=False))


class Queues(dict[str, int]):
    """The requests of each replica, as Ray's cache tells them."""

    def get(self, replica_id: Any) -> int | None:  # type: ignore[override]
        return super().get(replica_id.unique_id)


def test_the_router_sends_a_task_home_and_past_a_full_home_to_one_that_holds_it() -> None:
    from manyhats.scale.router import AffinityRouter

    router = AffinityRouter.__new__(AffinityRouter)
    router.initialize_state()
    queues = router._replica_queue_len_cache = Queues()
    home, second, third = preference("spam", ("a", "b", "c"))
    replicas = [replica(home), replica(second), replica(third, holds=["spam"])]

    def chosen(one: Any) -> str:
        return asyncio.run(router.choose_replicas(replicas, one))[0][0].replica_id.unique_id

    asked = pending("spam")
    assert chosen(asked) == home
    assert asked.routing_context.should_backoff  # it waits before it asks again where all are full
    queues[home] = 30
    assert chosen(pending("spam")) == third
    queues[third] = 30
    assert chosen(pending("spam")) == second
    queues[third] = 0
    router.on_request_routed(pending("spam"), SimpleNamespace(unique_id=second), None)
    assert {chosen(pending("spam")) for _ in range(50)} == {second, third}
    assert chosen(pending(None)) in {home, second, third}
    assert chosen(None) in {home, second, third}


def test_the_deployment_is_the_same_for_the_same_settings() -> None:
    from manyhats.scale.deployment import application

    def built(scaling: Scaling, **settings: Any) -> tuple[Any, Any]:
        front = application(Settings(backbone="x", **settings), scaling)._bound_deployment
        return front, front.init_args[0]._bound_deployment

    front, replicas = built(Scaling(replicas=2))
    assert (front.name, replicas.name, replicas.num_replicas) == ("front", "replica", 2)
    assert built(Scaling(replicas=3))[1]._version == replicas._version
    assert built(Scaling(), threads=2)[1]._version != replicas._version
    assert built(Scaling(), threads=2)[0]._version == front._version
    scaling = built(Scaling(min_replicas=1, max_replicas=4))[1]
    assert scaling._version != replicas._version
    scaled = scaling._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas) == (1, 4)
    plain = built(Scaling(affinity=False))[1]._deployment_config.request_router_config
    assert "PowerOfTwo" in str(plain.request_router_class)
