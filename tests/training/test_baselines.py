"""What an adapter must beat."""

from __future__ import annotations

import pytest
from manyhats.backbone import Backbone
from manyhats.core.kinds.examples import IGNORED, EncodedExample
from manyhats.core.kinds.metrics import Score
from manyhats.core.kinds.registry import TRAININGS
from manyhats.training.baselines import probe
from manyhats.training.batches import EncodedDataset

from tests.training.samples import encoded_examples


def _only(targets: list[object]) -> list[EncodedExample]:
    return [EncodedExample([1], [0], target, False) for target in targets]  # type: ignore[arg-type]


def majority(kind: str, data: EncodedDataset) -> Score:
    found = TRAININGS[kind].constant_baseline(data.train, data.test)
    assert found is not None
    return found.score


def test_the_commonest_answer_comes_from_the_training_data() -> None:
    data = EncodedDataset(train=_only([0, 0, 1]), validation=_only([1]), test=_only([1, 1, 0, 1]))
    assert majority("classify", data) == Score(TRAININGS["classify"].metric, 0.25, 4)
    data = EncodedDataset(train=_only([[IGNORED, 0, 0, 1]]), validation=[], test=_only([[IGNORED, 0, IGNORED, 1]]))
    assert majority("tokens", data) == Score(TRAININGS["tokens"].metric, 0.5, 2)
    data = EncodedDataset(train=_only([1.0, 3.0]), validation=[], test=_only([2.0, 4.0]))
    assert majority("regress", data) == Score(TRAININGS["regress"].metric, 2.0, 2)


@pytest.mark.parametrize("kind", ["classify", "tokens", "regress"])
def test_the_probe_finds_what_is_linear_in_the_states(bert: Backbone, kind: str) -> None:
    data = EncodedDataset(*(encoded_examples(bert, kind, count, seed) for seed, count in enumerate((150, 50, 50))))
    linear = TRAININGS[kind].probe
    assert linear is not None
    found = probe(bert, linear, data, seed=0)
    assert found == probe(bert, linear, data, seed=0)
    assert found.count == majority(kind, data).count
    assert found.better_than(majority(kind, data))
