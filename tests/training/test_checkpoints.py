"""A training that is ended and goes on gives what one in a single go gives."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import InvalidRequest, StorageFull
from manyhats.formats.reader import read_adapter
from manyhats.training.checkpoints import Checkpoints
from manyhats.training.trainer import Outcome, Trainer
from safetensors.torch import load_file

from tests.processes import Launcher, Process
from tests.training.samples import LABELS, encoded_examples, rows, write_jsonl
from tests.training.test_trainer import OPTIONS, _schedule
from tests.waiting import wait_until


class Ended(Exception):
    """In place of a kill."""


class EndsAt:
    """A watcher that ends the training after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, epoch: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise Ended

    def epoch(self, *_: Any) -> None:
        pass

    def resumed(self, steps: int) -> None:
        pass


def _train(
    backbone: Backbone, recipe: str, watcher: Any = None, checkpoints: Checkpoints | None = None
) -> tuple[Trainer, Outcome]:
    trainer = Trainer(backbone, recipe, "classify", len(LABELS), _schedule(recipe, epochs=2), OPTIONS.get(recipe))
    train, validation = encoded_examples(backbone, "classify", 40, 0), encoded_examples(backbone, "classify", 20, 1)
    return trainer, trainer.run(train, validation, watcher, checkpoints)


def _weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for m in (trainer.trainable, trainer.head) for p in m.parameters()])


@pytest.fixture(scope="module")
def in_a_single_go(bert: Backbone) -> Callable[[str], tuple[Trainer, Outcome]]:
    """A recipe's training from its beginning to its end."""

    @cache
    def train(recipe: str) -> tuple[Trainer, Outcome]:
        return _train(bert, recipe)

    return train


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("recipe", ["lora", "diff-pruning", "side", "mask", "p-tuning", "unipelt"])
def test_goes_on_with_the_same_result(
    bert: Backbone, in_a_single_go: Callable[[str], tuple[Trainer, Outcome]], tmp_path: Path, recipe: str, steps: int
) -> None:
    whole, outcome = in_a_single_go(recipe)
    assert outcome.steps > 5 or recipe != "diff-pruning"
    path = tmp_path / "checkpoint"
    with pytest.raises(Ended):
        _train(bert, recipe, EndsAt(steps), Checkpoints(path, every=0.0))
    resumed, again = _train(bert, recipe, None, Checkpoints(path, every=0.0))
    assert torch.equal(_weights(resumed), _weights(whole))
    assert again.losses == outcome.losses
    assert again.scores == outcome.scores
    assert (again.best_epoch, again.steps) == (outcome.best_epoch, outcome.steps)


def test_a_checkpoint_keeps_the_names_that_earlier_versions_wrote(bert: Backbone, tmp_path: Path) -> None:
    """So that a training goes on after an update."""
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    _train(bert, "lora", None, checkpoints)
    state = checkpoints.load()
    assert state is not None
    assert set(state) == {*("place", "trainable", "head", "best_state", "optimizer", "scheduler", "fresh", "dropping")}
    assert {name.rpartition(".")[0] for name in state["trainable"]} == {"parts.0.down", "parts.0.up"}
    assert {name.split(".")[0] for name in state["best_state"]} == {"trainable", "head"}
    assert {"stage", "epoch", "step", "steps", "best", "best_epoch", "step_losses", "done"} <= set(state["place"])


def test_a_checkpoint_of_another_training_is_refused(bert: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    _train(bert, "lora", None, Checkpoints(path, {"seed": 1, "data": "a"}))
    with pytest.raises(InvalidRequest, match="is of a training with data 'a', this one has 'b'; remove it"):
        Checkpoints(path, {"seed": 1, "data": "b"}).load()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidRequest, match="is damaged"):
        Checkpoints(path).load()


SAVER = """
import sys, torch
from pathlib import Path
from manyhats.errors import StorageFull
from manyhats.training.checkpoints import Checkpoints
try:
    Checkpoints(Path(sys.argv[1])).save({"weights": torch.ones(10**6)})
except StorageFull as error:
    print(error.message)
"""


def test_a_full_disk_keeps_the_checkpoint_before(launcher: Launcher, tmp_path: Path) -> None:
    path = tmp_path / "kept" / "checkpoint"
    path.parent.mkdir()
    Checkpoints(path).save({"weights": torch.ones(10)})
    needs = ["manyhats.training.checkpoints"]
    saver = Process(launcher, tmp_path / "log", [str(path)], script=SAVER, needs=needs, file_limit=100_000)
    assert saver.end() == 0, saver.text
    assert "cannot be written" in saver.text
    assert "--resume once there is room, from the checkpoint before" in saver.text
    state = Checkpoints(path).load()
    assert state is not None
    assert torch.equal(state["weights"], torch.ones(10))
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint"]


@pytest.fixture
def start(launcher: Launcher, base_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts `manyhats train` with the adapter folder `made/NAME`, in a process of its own."""
    started: list[Process] = []
    (tmp_path / "made").mkdir()

    def train(out: str, *more: str, **options: Any) -> Process:
        given = ["train", "--backbone", str(base_folder("bert")), "--task", "parity", "--method", "lora"]
        given += ["--data", str(tmp_path / "train.jsonl"), "--device", "cpu", "--out", str(tmp_path / "made" / out)]
        log = tmp_path / f"log-{len(started)}"
        started.append(Process(launcher, log, [*given, *more], environment={"COLUMNS": "200"}, **options))
        return started[-1]

    yield train
    for one in started:
        one.kill()


def test_a_killed_command_goes_on(start: Callable[..., Process], bert: Backbone, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows("classify", 300, 0))
    given = ["--batch-tokens", "60", "--epochs", "6", "--patience", "6"]
    whole = start("whole", *given)
    assert whole.end() == 0, whole.text

    killed = start("killed", *given)
    checkpoint = tmp_path / "made" / ".killed.checkpoint"
    wait_until(checkpoint.exists, "a checkpoint is written")
    killed.kill()
    assert killed.end() == -signal.SIGKILL
    assert checkpoint.exists()
    refused = start("killed", *given)
    assert refused.end() == 1
    assert "is left of a run that was ended; go on with --resume, or remove it" in refused.text
    resumed = start("killed", *given, "--resume")
    assert resumed.end() == 0, resumed.text
    assert "epoch 1/6" not in resumed.text
    assert "going on after step" in resumed.text
    assert not checkpoint.exists()
    one, other = (load_file(tmp_path / "made" / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_adapter(tmp_path / "made" / "killed", bert).method == "lora"


def test_a_full_disk_ends_the_command_with_a_reason(start: Callable[..., Process], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows("classify", 60, 0))
    run = start("out", "--epochs", "1", file_limit=10_000)
    assert run.end() == 1
    assert "cannot be written" in run.text
    assert "Traceback" not in run.text
    assert list((tmp_path / "made").iterdir()) == []


def test_no_room_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFull, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoint").save({})
