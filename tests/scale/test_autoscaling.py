"""How many replicas the queues ask for, and what cannot be asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from manyhats.errors import WrongSetting
from manyhats.scale.autoscaling import QueueDepth
from manyhats.scale.options import Scaling


def wanted(depths: dict[str, float] | None, queued: float | None = 0.0, target: float = 32.0) -> float:
    context: Any = SimpleNamespace(
        aggregated_metrics=None if depths is None else {"depth": depths},
        total_queued_requests=queued,
        target_num_replicas=3,
    )
    number, state = QueueDepth(target)(context)
    assert state == {}
    return number


def test_as_many_as_keep_the_depth() -> None:
    assert wanted({"a": 64.0, "b": 64.0}) == 4
    assert wanted({"a": 8.0, "b": 8.0}) == 0.5  # Ray rounds up, and keeps the bounds
    assert wanted({"a": 32.0}, queued=32.0) == 2
    assert wanted({"a": 32.0}, queued=None) == 1


def test_nothing_changes_before_a_replica_has_reported() -> None:
    assert wanted(None) == 3
    assert wanted({}) == 3


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(WrongSetting, match="together"):
        Scaling(min_replicas=2)
    with pytest.raises(WrongSetting, match="--min-replicas 3 is more than --max-replicas 2"):
        Scaling(min_replicas=3, max_replicas=2)
    assert Scaling(min_replicas=1, max_replicas=4).most == 4
    assert not Scaling(replicas=3).scales
