"""A training that is ended and goes on gives what one in a single go gives."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import InvalidRequest, StorageFull
from manyhats.formats import read_adapter
from manyhats.training.checkpoints import Checkpoints
from manyhats.training.trainer import Outcome, Trainer
from safetensors.torch import load_file

from tests.training.samples import LABELS, items, rows, write_jsonl
from tests.training.test_trainer import OPTIONS, _schedule


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
    train, validation = items(backbone, "classify", 40, 0), items(backbone, "classify", 20, 1)
    return trainer, trainer.run(train, validation, watcher, checkpoints)


def _weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for m in (trainer.trainable, trainer.head) for p in m.parameters()])


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("recipe", ["lora", "diff-pruning", "side", "mask", "p-tuning", "unipelt"])
def test_goes_on_with_the_same_result(bert: Backbone, tmp_path: Path, recipe: str, steps: int) -> None:
    whole, outcome = _train(bert, recipe)
    assert outcome.steps > 5 or recipe != "diff-pruning"
    path = tmp_path / "checkpoint"
    with pytest.raises(Ended):
        _train(bert, recipe, EndsAt(steps), Checkpoints(path, every=0.0))
    resumed, again = _train(bert, recipe, None, Checkpoints(path, every=0.0))
    assert torch.equal(_weights(resumed), _weights(whole))
    assert again.losses == outcome.losses
    assert again.scores == outcome.scores
    assert (again.best_epoch, again.steps) == (outcome.best_epoch, outcome.steps)


def test_a_checkpoint_of_another_training_is_refused(bert: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    _train(bert, "lora", None, Checkpoints(path, {"seed": 1, "data": "a"}))
    with pytest.raises(InvalidRequest, match="is of a training with data 'a', this one has 'b'; remove it"):
        Checkpoints(path, {"seed": 1, "data": "b"}).load()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidRequest, match="is damaged"):
        Checkpoints(path).load()


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    Checkpoints(path).save({"weights": torch.ones(10)})
    program = (
        "import torch, sys\n"
        "from pathlib import Path\n"
        "from manyhats.errors import StorageFull\n"
        "from manyhats.training.checkpoints import Checkpoints\n"
        "try:\n"
        "    Checkpoints(Path(sys.argv[1])).save({'weights': torch.ones(10**6)})\n"
        "except StorageFull as error:\n"
        "    print(error.message)\n"
    )

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, preexec_fn=little_room, check=False
    )
    assert "cannot be written" in run.stdout, run.stderr
    assert "--resume once there is room, from the checkpoint before" in run.stdout
    state = Checkpoints(path).load()
    assert state is not None
    assert torch.equal(state["weights"], torch.ones(10))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_a_killed_command_goes_on(base_folder: Callable[[str], Path], bert: Backbone, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows("classify", 300, 0))
    command = [
        str(Path(sys.executable).with_name("manyhats")),
        "train",
        "--backbone",
        str(base_folder("bert")),
        "--task",
        "parity",
    ]
    command += ["--method", "lora", "--data", str(tmp_path / "train.jsonl"), "--device", "cpu", "--batch-tokens", "60"]

    def start(out: str, *more: str) -> subprocess.Popen[str]:
        given = [*command, "--out", str(tmp_path / out), "--epochs", "6", "--patience", "6", *more]
        return subprocess.Popen(
            given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"COLUMNS": "200"}
        )

    whole = start("whole")
    told, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, told

    killed = start("killed")
    checkpoint = tmp_path / ".killed.checkpoint"
    while not checkpoint.exists():
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert checkpoint.exists()
    refused = start("killed")
    told, _ = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert "is left of a run that was ended; go on with --resume, or remove it" in told
    resumed = start("killed", "--resume")
    told, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, told
    assert "epoch 1/6" not in told
    assert "going on after step" in told
    assert not checkpoint.exists()
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_adapter(tmp_path / "killed", bert).method == "lora"


def test_a_full_disk_ends_the_command_with_a_reason(base_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows("classify", 60, 0))
    command = [str(Path(sys.executable).with_name("manyhats")), "train", "--backbone", str(base_folder("bert"))]
    command += ["--task", "parity", "--method", "lora", "--data", str(tmp_path / "train.jsonl"), "--device", "cpu"]
    command += ["--out", str(tmp_path / "out"), "--epochs", "1"]

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=little_room, check=False)
    assert run.returncode == 1
    assert "cannot be written" in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.jsonl"]


def test_no_room_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFull, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoint").save({})
