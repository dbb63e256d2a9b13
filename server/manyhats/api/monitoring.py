"""What the web page shows of a running server: `/v1/overview`, `/v1/traffic`, `/v1/batches`.

Traffic and batches name the tasks of others. They are for keys with the scope `metrics`, as in `/metrics`, of the tasks
that a key may ask, and for nobody where the setting `metrics_names` is `nobody`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ConfigDict

from manyhats._version import __version__
from manyhats.api.auth import require_metrics
from manyhats.api.json_response import small_json
from manyhats.api.schemas import AnswerBody
from manyhats.api.state import runtime_of
from manyhats.errors import PermissionDenied
from manyhats.registry.visibility import sees, sees_all
from manyhats.runtime import Runtime
from manyhats.serving.activity import INTERVAL, MAX_BATCHES, Traffic
from manyhats.serving.faulty_adapters import quarantined_versions

router = APIRouter(prefix="/v1", tags=["operations"], dependencies=[Depends(require_metrics)])

_NAMED = 64  # tasks of a batch that are named


def _example(example: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class TierBody(AnswerBody):
    """Adapters in one tier of the cache, and their bytes."""

    adapters: int
    bytes: int
    bytes_limit: int


class OverviewBody(AnswerBody):
    """The server at one look."""

    model_config = _example(
        {
            "backbone": "all-MiniLM-L6-v2",
            "device": "cpu",
            "version": __version__,
            "uptime_seconds": 3600.5,
            "tasks": 4,
            "slots": {"adapters": 3, "bytes": 1835008, "bytes_limit": 2147483648},
            "memory": {"adapters": 1, "bytes": 524288, "bytes_limit": 1073741824},
            "inputs_waiting": 0,
            "loads": 4,
            "evictions": 1,
            "quarantined_versions": 0,
        }
    )

    backbone: str
    device: str
    version: str
    uptime_seconds: float
    tasks: int
    slots: TierBody
    memory: TierBody
    inputs_waiting: int
    loads: int
    evictions: int
    quarantined_versions: int


class TrafficSeries(AnswerBody):
    """One number for each interval, the oldest first; milliseconds are null where nothing was answered."""

    requests: list[int]
    failed: list[int]
    mean_ms: list[float | None]
    max_ms: list[float | None]


class TaskTraffic(TrafficSeries):
    """The same of one task."""

    task: str


class TrafficBody(AnswerBody):
    """The last minutes. `end`: when the newest interval, which is not over yet, will end (Unix, seconds)."""

    model_config = _example(
        {
            "interval_seconds": 5,
            "end": 1760000005.0,
            "total": {"requests": [3, 2], "failed": [0, 1], "mean_ms": [4.2, 3.9], "max_ms": [6.1, 3.9]},
            "data": [
                {"task": "spam", "requests": [3, 1], "failed": [0, 0], "mean_ms": [4.2, 3.9], "max_ms": [6.1, 3.9]}
            ],
        }
    )

    interval_seconds: int
    end: float
    total: TrafficSeries
    data: list[TaskTraffic]


class BatchTask(AnswerBody):
    """A task of a batch, and how many sequences were its."""

    task: str
    sequences: int


class RecentBatch(AnswerBody):
    """One pass through the model. `tasks` names the largest; `task_count` counts all."""

    id: int
    ended: float
    sequences: int
    tokens: int
    compute_ms: float
    methods: list[str]
    task_count: int
    tasks: list[BatchTask]


class BatchList(AnswerBody):
    """The last batches, the newest first."""

    model_config = _example(
        {
            "data": [
                {
                    "id": 17,
                    "ended": 1760000001.5,
                    "sequences": 4,
                    "tokens": 38,
                    "compute_ms": 4.1,
                    "methods": ["ia3", "lora"],
                    "task_count": 2,
                    "tasks": [{"task": "spam", "sequences": 3}, {"task": "topic", "sequences": 1}],
                }
            ]
        }
    )

    data: list[RecentBatch]


@router.get("/overview", response_model=OverviewBody)
async def overview(request: Request) -> Response:
    """The server at one look: its backbone, its memory, and what waits."""
    runtime = runtime_of(request)
    cache = runtime.adapter_cache.stats()
    body = {
        "backbone": runtime.backbone.name,
        "device": str(runtime.backbone.device),
        "version": __version__,
        "uptime_seconds": time.time() - runtime.started,
        "tasks": runtime.registry.seen_count,
        "slots": {"adapters": cache.slots, "bytes": cache.slot_bytes, "bytes_limit": cache.slot_bytes_limit},
        "memory": {
            "adapters": cache.memory,
            "bytes": cache.memory_bytes,
            "bytes_limit": runtime.settings.host_memory,
        },
        "inputs_waiting": sum(runtime.engine.waiting().values()),
        "loads": cache.loads,
        "evictions": cache.evictions,
        "quarantined_versions": sum(
            sees(version.task) for version in quarantined_versions(runtime.registry, runtime.service.faulty)
        ),
    }
    return small_json(body)


@router.get("/traffic", response_model=TrafficBody)
async def traffic(
    request: Request,
    task: Annotated[list[str] | None, Query(max_length=200, description="these tasks, instead of the busiest")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="how many of the busiest tasks")] = 50,
) -> Response:
    """Requests and times of the last five minutes, by task; tasks without requests are left out."""
    recent = _named(runtime_of(request)).metrics.recent_traffic
    names = recent.busiest(limit, sees) if task is None else [name for name in dict.fromkeys(task) if sees(name)]
    end, total, by_task = recent.history(names, None if sees_all() else sees)
    body = {
        "interval_seconds": INTERVAL,
        "end": end,
        "total": _series(total),
        "data": [{"task": name, **_series(history)} for name, history in by_task.items()],
    }
    return small_json(body)


@router.get("/batches", response_model=BatchList)
async def batches(request: Request, limit: Annotated[int, Query(ge=1, le=MAX_BATCHES)] = 50) -> Response:
    """The last batches: which tasks and methods shared each pass through the model."""
    recent = _named(runtime_of(request)).metrics.recent_batches.last(limit)
    data = []
    for ended, report in recent:
        tasks = {name: count for name, count in report.tasks.items() if sees(name)}
        largest = sorted(tasks.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]
        data.append(
            {
                "id": report.id,
                "ended": ended,
                "sequences": report.sequences,
                "tokens": report.tokens,
                "compute_ms": 1000 * report.seconds,
                "methods": list(report.methods),
                "task_count": len(tasks),
                "tasks": [{"task": name, "sequences": count} for name, count in largest],
            }
        )
    return small_json({"data": data})


def _named(runtime: Runtime) -> Runtime:
    """Raises PermissionDenied where the operator has nobody see which tasks are asked."""
    if runtime.settings.metrics_names == "nobody":
        raise PermissionDenied("metrics_names is 'nobody': traffic by task is not shown", param="metrics_names")
    return runtime


def _series(history: Sequence[Traffic]) -> dict[str, Any]:
    answered = [one.requests - one.failed for one in history]
    return {
        "requests": [one.requests for one in history],
        "failed": [one.failed for one in history],
        "mean_ms": [1000 * one.seconds / n if n else None for one, n in zip(history, answered, strict=True)],
        "max_ms": [1000 * one.longest if n else None for one, n in zip(history, answered, strict=True)],
    }
