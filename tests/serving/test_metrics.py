"""Counting is cheap, follows what is asked, and never goes back."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from manyhats.core.answered import Answered
from manyhats.core.report import BatchReport
from manyhats.serving.distribution import FEW_SECONDS, Distribution
from manyhats.serving.metrics import Metrics, SummedOverTasks
from manyhats.serving.task_metrics import TaskMetrics
from prometheus_client import generate_latest
from prometheus_client.core import Metric


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(task: str, error: str = "", method: str = "lora", **fields: Any) -> Answered:
    given = {"received": 10.0, "seconds": 0.1, "inputs": 2, "input_tokens": 7, "queue_ms": 3.0, "compute_ms": 30.0}
    return Answered(task, error=error, method=method, **given | fields)


def samples(families: Iterable[Metric]) -> dict[tuple[Any, ...], float]:
    """Each sample by its name and its labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def requests_of(metrics: TaskMetrics, *, retired: bool = False) -> dict[str, float]:
    """The number of requests by task."""
    found: dict[str, float] = {}
    for (name, *labels), value in samples(metrics.families(retired=retired)).items():
        if name == "manyhats_requests_total":
            task = dict(labels)["task"]
            found[task] = found.get(task, 0) + value
    return found


def test_what_is_counted_of_a_request() -> None:
    metrics = Metrics(max_tasks=5)
    metrics.answered(answer("a", output_tokens=3, load_ms=20.0, token_times=[(10.5, 10.6, 10.9)]))
    metrics.answered(answer("a", error="InvalidRequest"))
    metrics.answered(answer("a", method="ia3"))
    metrics.answered(answer("nobody", error="NotFound", found=False))
    metrics.batch(BatchReport(1, {"a": 2, "b": 1}, ("ia3", "lora"), 3, 9, 0.1, signatures=3))
    metrics.loaded(0.2)
    metrics.http.ended("POST /v1/predict", 200, 0.1)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    own = {"task": "a", "method": "lora"}
    assert value("manyhats_requests_total", outcome="ok", **own) == 1
    assert value("manyhats_requests_total", outcome="InvalidRequest", **own) == 1
    assert value("manyhats_requests_total", outcome="ok", task="a", method="ia3") == 1
    assert value("manyhats_requests_total", outcome="NotFound", task="unknown", method="") == 1
    assert value("manyhats_inputs_total", **own) == 2
    assert value("manyhats_input_tokens_total", **own) == 7
    assert value("manyhats_output_tokens_total", **own) == 3
    assert value("manyhats_request_seconds_count", **own) == 1
    assert value("manyhats_request_seconds_bucket", le="0.1", **own) == 1
    assert value("manyhats_request_seconds_bucket", le="0.05", **own) == 0
    assert value("manyhats_request_queue_seconds_sum", **own) == pytest.approx(0.003)
    assert value("manyhats_request_load_seconds_sum", **own) == pytest.approx(0.02)
    assert value("manyhats_request_load_seconds_count", task="a", method="ia3") is None  # it waited for none
    assert value("manyhats_request_compute_seconds_sum", **own) == pytest.approx(0.03)
    assert value("manyhats_time_to_first_token_seconds_sum", **own) == pytest.approx(0.5)
    assert value("manyhats_time_between_tokens_seconds_count", **own) == 2
    assert value("manyhats_time_between_tokens_seconds_sum", **own) == pytest.approx(0.4)
    assert value("manyhats_batch_tasks_sum") == 2
    assert value("manyhats_batch_methods_sum") == 2
    assert value("manyhats_batch_signatures_sum") == 3
    assert value("manyhats_batch_tokens_total") == 9
    assert value("manyhats_adapter_load_seconds_count") == 1
    assert value("manyhats_http_requests_total", route="POST /v1/predict", code="200") == 1


def test_a_label_goes_to_who_is_asked_now() -> None:
    clock = Clock()
    metrics = TaskMetrics(2, clock)
    for task in ("a", "b", "c"):
        metrics.answered(answer(task))
    assert requests_of(metrics) == {"a": 1, "b": 1, "other": 1}  # nobody has been idle: series would come and go
    clock.now += 59
    metrics.answered(answer("b"))
    metrics.answered(answer("c"))
    assert requests_of(metrics) == {"a": 1, "b": 2, "other": 2}
    clock.now += 1
    metrics.answered(answer("c"))
    assert requests_of(metrics) == {"c": 1, "b": 2, "other": 2}
    metrics.answered(answer("a"))
    assert requests_of(metrics) == {"c": 1, "b": 2, "other": 3}
    metrics.retire("b")  # it was deleted
    metrics.answered(answer("a"))
    assert requests_of(metrics) == {"c": 1, "a": 1, "other": 3}


def test_a_task_may_have_any_name() -> None:
    metrics = TaskMetrics(5)
    for task in ("other", "unknown", "retired", "a"):
        metrics.answered(answer(task))
    assert requests_of(metrics) == {"other": 3, "a": 1}


def test_rates_are_right_and_sums_never_go_back_while_tasks_come_and_go() -> None:
    """As Prometheus reckons: what a series has gained since the last scrape, or all of it where it began anew."""
    clock, rng = Clock(), random.Random(3)
    metrics = Metrics(0)
    metrics.tasks = TaskMetrics(4, clock)
    before: dict[tuple[Any, ...], float] = {}
    gained, asked, summed, labels = 0.0, 0, 0.0, set()
    for turn in range(400):
        task = f"t{turn // 40 + rng.randrange(8)}"
        metrics.answered(answer(task, error="" if rng.random() < 0.7 else "Overloaded"))
        asked += 1
        clock.now += rng.choice((1, 20))
        if rng.random() < 0.05:
            metrics.tasks.retire(task)
            continue  # of this one a scrape sees nothing any more, as it does of what ends between two scrapes
        now = samples(metrics.tasks.families(retired=False))
        now = {key: value for key, value in now.items() if key[0] == "manyhats_requests_total"}
        for key, value in now.items():
            gained += value - before[key] if value >= before.get(key, math.inf) else value
        before = now
        labels |= {dict(key[1:])["task"] for key in now}
        assert len({dict(key[1:])["task"] for key in now} - {"other"}) <= 4
        total = sum(
            value
            for key, value in samples(SummedOverTasks(metrics).collect()).items()
            if key[0] == "manyhats_requests_total"
        )
        assert total == asked >= summed
        summed = total
    assert len(labels) > 10  # they did follow
    lost = asked - gained
    assert 0 <= lost <= 400 * 0.1  # those that came and were deleted between two scrapes


def test_sums_have_no_names() -> None:
    metrics = Metrics(max_tasks=1)
    for task in ("secret", "hidden", "covert"):
        metrics.answered(answer(task))
    metrics.tasks.retire("secret")
    summed = generate_latest(SummedOverTasks(metrics)).decode()
    assert 'manyhats_requests_total{method="lora",outcome="ok"} 3.0' in summed
    assert 'manyhats_request_seconds_count{method="lora"} 3.0' in summed
    assert not any(name in summed for name in ("secret", "hidden", "covert", "retired"))


def test_steps_between_tokens_are_counted_as_single_values_are() -> None:
    rng = random.Random(1)
    times = [0.0]
    for _ in range(500):
        times.append(times[-1] + rng.choice((0.0005, 0.001, 0.02, 0.3, 20.0)))
    together, alone = Distribution(FEW_SECONDS), Distribution(FEW_SECONDS)
    together.observe_steps(times)
    for one, other in pairwise(times):
        alone.observe(other - one)
    assert together.counts == alone.counts
    assert together.sum == pytest.approx(alone.sum)
