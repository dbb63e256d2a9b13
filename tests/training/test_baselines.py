"""What an adapter must beat."""

from __future__ import annotations

import pytest
from manyhats.backbone import Backbone
from manyhats.training.baselines import majority, probe
from manyhats.training.batches import IGNORED, Item, Items
from manyhats.training.metrics import Score
from manyhats.training.rows import TaskKind

from tests.training.samples import items


def _only(targets: list[object]) -> list[Item]:
    return [Item([1], [0], target, False) for target in targets]  # type: ignore[arg-type]


def test_the_commonest_answer_comes_from_the_training_data() -> None:
    data = Items(train=_only([0, 0, 1]), validation=_only([1]), test=_only([1, 1, 0, 1]))
    assert majority("classify", data) == Score("classify", 0.25, 4)
    data = Items(train=_only([[IGNORED, 0, 0, 1]]), validation=[], test=_only([[IGNORED, 0, IGNORED, 1]]))
    assert majority("tokens", data) == Score("tokens", 0.5, 2)
    data = Items(train=_only([1.0, 3.0]), validation=[], test=_only([2.0, 4.0]))
    assert majority("regress", data) == Score("regress", 2.0, 2)


@pytest.mark.parametrize("kind", ["classify", "tokens", "regress"])
def test_the_probe_finds_what_is_linear_in_the_states(bert: Backbone, kind: TaskKind) -> None:
    data = Items(*(items(bert, kind, count, seed) for seed, count in enumerate((150, 50, 50))))
    found = probe(bert, kind, data, seed=0)
    assert found == probe(bert, kind, data, seed=0)
    assert found.count == majority(kind, data).count
    assert found.better_than(majority(kind, data))
