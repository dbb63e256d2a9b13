"""Ray Serve's request router with `Affinity`. What is used of Ray beyond its documented interface stands here."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from manyhats.scale.affinity import Affinity, Holdings, Load
from manyhats.scale.exchange import Asked


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types for mypy
    """Sends a request to its task's replica. The task is in the request itself, an `Asked`."""

    def initialize_state(self, spread: float = 1.25, slack: int = 8) -> None:
        """Called by Ray Serve with `request_router_kwargs`."""
        self._affinity = Affinity(spread, slack)
        self._holdings = Holdings()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The candidates by preference; Ray takes the first list of which a replica can take the request."""
        by_name = {one.replica_id.unique_id: one for one in candidate_replicas}
        loads = {
            name: Load(
                self.replica_queue_len_cache.get(one.replica_id) or 0, self._holdings.of(name, one.routing_stats)
            )
            for name, one in by_name.items()
        }
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Ray would ask again at once where all are full
        return [[by_name[name] for name in rank] for rank in self._affinity.ranked(_task(pending_request), loads)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """A replica has taken a request."""
        if (task := _task(pending_request)) is not None:
            self._holdings.sent(replica_id.unique_id, task)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Replicas have come, gone, or reported."""
        super().update_replicas(replicas)
        self._holdings.keep({one.replica_id.unique_id: one for one in replicas})


def _task(pending: PendingRequest | None) -> str | None:
    asked = pending.args[0] if pending is not None and pending.args else None
    return asked.task if isinstance(asked, Asked) else None
