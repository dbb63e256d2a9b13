"""Counting is cheap: what prometheus_client keeps for a label is looked up once."""

from __future__ import annotations

from typing import Any

import pytest
from manyhats.core.report import BatchReport
from manyhats.errors import InvalidRequest
from manyhats.serving.metrics import Metrics
from prometheus_client.metrics import MetricWrapperBase


def test_labels_are_looked_up_once_for_each_task_and_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(max_tasks=2)
    looked_up: list[Any] = []
    original = MetricWrapperBase.labels

    def counted(self: Any, *labels: Any) -> Any:
        looked_up.append(labels)
        return original(self, *labels)

    monkeypatch.setattr(MetricWrapperBase, "labels", counted)
    for _ in range(5):
        metrics.answered("a", None, 0.1)
        metrics.answered("b", InvalidRequest("no"), 0.1)
        metrics.batch(BatchReport(1, {"a": 2, "b": 1, "c": 1}, ("lora",), 4, 9, 0.1))
    assert len(looked_up) == len({("requests", "a"), ("seconds", "a"), ("requests", "b")}) + 3

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("manyhats_requests_total", task="a", outcome="ok") == 5
    assert value("manyhats_requests_total", task="b", outcome="InvalidRequest") == 5
    assert value("manyhats_request_seconds_count", task="a") == 5
    assert value("manyhats_request_seconds_count", task="b") is None
    assert value("manyhats_inputs_total", task="a") == 10
    assert value("manyhats_inputs_total", task="other") == 5
