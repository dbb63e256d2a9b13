"""Adapters that are made of trained ones: AdapterFusion in two stages, and averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.kinds.registry import TRAININGS
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.component import Component
from manyhats.training.data import Dataset
from manyhats.training.evaluation import predict
from manyhats.training.job import Job, _identity
from manyhats.training.recipes import schedule_for
from manyhats.training.trainer import Trainer

from tests import tiny
from tests.training.samples import LABELS, encoded_examples
from tests.training.test_trainer import _schedule, _trained


@pytest.fixture(scope="module")
def members(bert: Backbone) -> list[Component]:
    """Three trained adapters."""
    return [_trained(bert, "pfeiffer", epochs=2, seed=seed)[0].trainable.saved()[0] for seed in (1, 2, 3)]


def test_learns_and_leaves_its_members_as_they_are(bert: Backbone, members: list[Component], tmp_path: Path) -> None:
    before = [{site: {n: t.clone() for n, t in leaves.items()} for site, leaves in m.tensors.items()} for m in members]
    trainer = Trainer(bert, "fusion", "classify", 2, _schedule("fusion", learning_rate=5e-3), {"members": members})
    assert trainer.parameters[0] == bert.layers * (3 * bert.hidden**2 + 2 * bert.hidden)
    outcome = trainer.run(encoded_examples(bert, "classify", 160, 0), encoded_examples(bert, "classify", 60, 1))
    assert outcome.losses[-1] < 0.8 * outcome.losses[0]
    assert outcome.validation.value > 0.85
    for member, own in zip(members, before, strict=True):
        assert all(torch.equal(member.tensors[s][n], t) for s, leaves in own.items() for n, t in leaves.items())
    write_adapter(trainer.adapter({"labels": LABELS}), tmp_path, bert)
    reloaded = read_adapter(tmp_path, bert)
    assert reloaded.method == "fusion"
    held = encoded_examples(bert, "classify", 20, 2)
    assert tiny.difference(predict(bert, reloaded.bind(bert), held), predict(bert, trainer.bound(), held)) < 1e-5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "fusion needs the option members: folders of trained adapters"),
        ([], "two members or more"),
        ("lora", "a member is a lora; bottleneck adapters can be fused"),
    ],
)
def test_what_cannot_be_fused_is_said(bert: Backbone, given: Any, message: str) -> None:
    if given == "lora":
        given = [Trainer(bert, "lora", "classify", 2, _schedule("lora")).trainable.saved()[0]] * 2
    with pytest.raises(InvalidRequest, match=message):
        Trainer(bert, "fusion", "classify", 2, _schedule("fusion"), {} if given is None else {"members": given})


def test_an_average_trains_its_head_alone(bert: Backbone, members: list[Component], tmp_path: Path) -> None:
    options = {"members": members, "weights": "0.2,0.3,0.5"}
    trainer = Trainer(bert, "average", "classify", 2, _schedule("average"), options)
    assert trainer.parameters == (0, 2 * bert.hidden + 2)
    outcome = trainer.run(encoded_examples(bert, "classify", 160, 0), encoded_examples(bert, "classify", 60, 1))
    assert outcome.losses[-1] < outcome.losses[0]
    write_adapter(trainer.adapter({"labels": LABELS}), tmp_path, bert)
    reloaded = read_adapter(tmp_path, bert)
    assert reloaded.method == "average"
    assert reloaded.components[0].config.weights == (0.2, 0.3, 0.5)  # type: ignore[attr-defined]
    held = encoded_examples(bert, "classify", 20, 2)
    assert tiny.difference(predict(bert, reloaded.bind(bert), held), predict(bert, trainer.bound(), held)) < 1e-5


def test_an_average_without_a_head_has_nothing_to_learn(bert: Backbone, members: list[Component]) -> None:
    with pytest.raises(InvalidRequest, match="average trains a head alone, and the kind embed has none"):
        Trainer(bert, "average", "embed", 0, _schedule("average"), {"members": members})


@pytest.mark.parametrize(
    ("weights", "message"), [("1,2", "2 weights for 3 members"), ("1,2,much", "weights must be numbers, not 'much'")]
)
def test_weights_that_do_not_fit_are_said(bert: Backbone, members: list[Component], weights: str, message: str) -> None:
    with pytest.raises((InvalidRequest, AdapterMismatch), match=message):
        Trainer(bert, "average", "classify", 2, _schedule("average"), {"members": members, "weights": weights})


def test_a_run_with_other_members_does_not_go_on(bert: Backbone, tmp_path: Path) -> None:
    """They are known by what is in them, not by where they lie."""
    folders = [tmp_path / name for name in ("one", "two")]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        trainer, _ = _trained(bert, "pfeiffer", epochs=1, count=20, seed=seed)
        write_adapter(trainer.adapter({"labels": LABELS}), folder, bert)
    dataset = Dataset(TRAININGS["classify"], [], [], [], list(LABELS), [], [])
    job = Job("parity", "fusion", "classify", tmp_path, tmp_path, options={"members": f"{folders[0]},{folders[1]}"})

    def identity() -> Any:
        return _identity(job, schedule_for("fusion"), dataset, bert, 20)

    before = identity()
    assert identity() == before
    other, _ = _trained(bert, "pfeiffer", epochs=1, count=20, seed=9)
    for path in folders[1].iterdir():
        path.unlink()
    write_adapter(other.adapter({"labels": LABELS}), folders[1], bert)
    assert identity() != before
