"""How many replicas the queues ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRIC = "depth"  # of a replica: the inputs that wait for its model or are in it


class QueueDepth:
    """Ray Serve's autoscaling policy: as many replicas as keep `target` inputs each, those that wait in front of them
    counted. Ray applies the bounds and the delays."""

    def __init__(self, target: float = 32.0) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The number wanted, which may lie between two, and a state, of which there is none."""
        depths: Mapping[Any, float] = (context.aggregated_metrics or {}).get(METRIC) or {}
        if not depths:  # none has reported yet
            return context.target_num_replicas, {}
        waiting = sum(depths.values()) + (context.total_queued_requests or 0)
        return waiting / self._target, {}
