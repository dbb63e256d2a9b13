"""Aliases with what is rolled out on them: `GET /v1/tasks/{task}/aliases/{alias}`, and the same in a task's body."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from manyhats.api.answers import AliasTarget, examples
from manyhats.api.rollout_answers import RolloutState
from manyhats.registry.records import Task
from manyhats.registry.rollout import AFFINITY, Canary, Rollout, Shadow
from manyhats.runtime import Runtime
from manyhats.serving.canary import SideCounts
from manyhats.serving.rollouts import Watch
from manyhats.serving.shadow import ShadowCounts


class AliasState(RolloutState):
    """An alias. `version`: the one that it points at, the largest of a `split`."""

    model_config = examples(
        {
            "task": "spam",
            "alias": "stable",
            "version": 2,
            "split": [{"version": 2, "weight": 90.0}, {"version": 3, "weight": 10.0}],
            "affinity": "x-affinity",
            "since": 1760000000.0,
            "shadow": None,
            "canary": {
                "version": 3,
                "max_error_rate": 0.02,
                "max_latency_ratio": 1.5,
                "max_p95_ms": None,
                "min_requests": 100,
                "window_seconds": 300.0,
                "canary": {"requests": 41, "faults": 0, "error_rate": 0.0, "p95_ms": 12.1},
                "others": {"requests": 380, "faults": 0, "error_rate": 0.0, "p95_ms": 11.7},
            },
            "withdrawn": None,
        }
    )

    task: str
    alias: str
    version: int
    split: list[AliasTarget] | None


def alias_state(runtime: Runtime, task: Task, alias: str) -> dict[str, Any]:
    """An alias of a task, which has it."""
    targets = task.aliases[alias]
    largest = max(targets, key=lambda target: target.weight)
    split = [{"version": target.version, "weight": target.weight} for target in targets]
    return {
        "task": task.name,
        "alias": alias,
        "version": largest.version,
        "split": split if len(targets) > 1 else None,
    } | rollout_state(runtime, task, alias)


def rollouts_body(runtime: Runtime, task: Task) -> dict[str, Any]:
    """In a task's body: the aliases that are rolled out, where there are any."""
    if not task.rollouts:
        return {}
    return {"rollouts": {alias: rollout_state(runtime, task, alias) for alias in sorted(task.rollouts)}}


def rollout_state(runtime: Runtime, task: Task, alias: str) -> dict[str, Any]:
    """What an alias has besides its versions, and what was counted of it."""
    rollout = task.rollouts.get(alias, Rollout())
    watch = runtime.rollouts.watch(task, alias)
    return {
        "affinity": rollout.affinity or AFFINITY,
        "since": None if watch is None else watch.since,
        "shadow": None if rollout.shadow is None else _shadow(rollout.shadow, watch),
        "canary": None if rollout.canary is None else _canary(rollout.canary, watch),
        "withdrawn": None if rollout.withdrawn is None else asdict(rollout.withdrawn),
    }


def _shadow(shadow: Shadow, watch: Watch | None) -> dict[str, Any]:
    counts = ShadowCounts() if watch is None else watch.shadow
    names = ("answered", "failed", "skipped", "agreed", "differed", "not_compared", "error")
    pairs = list(counts.pairs)
    return (
        asdict(shadow)
        | {name: getattr(counts, name) for name in names}
        | {"main": _latencies([main for main, _ in pairs]), "shadow": _latencies([other for _, other in pairs])}
    )


def _canary(canary: Canary, watch: Watch | None) -> dict[str, Any]:
    nothing = SideCounts(0, 0, None)
    own, others = (nothing, nothing) if watch is None or watch.canary is None else watch.canary.counts()
    return asdict(canary) | {"canary": _side(own), "others": _side(others)}


def _side(counts: SideCounts) -> dict[str, Any]:
    return asdict(counts) | {"error_rate": counts.error_rate}


def _latencies(milliseconds: list[float]) -> dict[str, float] | None:
    if not milliseconds:
        return None
    ordered = sorted(milliseconds)
    return {f"p{percent}_ms": round(ordered[math.ceil(percent / 100 * len(ordered)) - 1], 3) for percent in (50, 95)}
