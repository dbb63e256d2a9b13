"""Several processes train one adapter."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist
from manyhats.backbone import Backbone
from manyhats.formats.reader import read_adapter

from tests.processes import Launcher, Process
from tests.training.samples import rows, write_jsonl


@pytest.fixture
def given(base_folder: Callable[[str], Path], tmp_path: Path) -> list[str]:
    """A training. Rates of almost nothing leave the weights as they start, so that the losses can be compared."""
    write_jsonl(tmp_path / "train.jsonl", rows("classify", 200, 0))
    words = ["train", "--backbone", str(base_folder("bert")), "--task", "parity", "--method", "lora", "--device", "cpu"]
    words += ["--data", str(tmp_path / "train.jsonl"), "--epochs", "1", "--batch-tokens", "80"]
    return [*words, "--learning-rate", "1e-9", "--head-learning-rate", "1e-9"]


@pytest.fixture
def alone(given: list[str], launcher: Launcher, tmp_path: Path) -> float:
    """The loss of one process that takes two batches a step."""
    one = Process(launcher, tmp_path / "alone", [*given, "--accumulate", "2", "--out", str(tmp_path / "one")])
    assert one.end() == 0, one.text
    return loss(one.text)


def loss(text: str) -> float:
    """What is said of the epoch. Only one of several processes says it."""
    (found,) = re.findall(r"epoch 1/1: loss ([0-9.]+)", text)
    return float(found)


def test_two_processes_share_each_step(
    given: list[str], alone: float, launcher: Launcher, bert: Backbone, tmp_path: Path
) -> None:
    """Two processes that find each other as those do that `accelerate launch` starts."""
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    both = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        place |= {"ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}
        words = [*given, "--out", str(tmp_path / "several")]
        both.append(Process(launcher, tmp_path / f"log-{rank}", words, environment=place))
    assert [one.end() for one in both] == [0, 0], "".join(one.text for one in both)
    assert abs(loss("".join(one.text for one in both)) - alone) < 0.02  # dropout differs
    assert read_adapter(tmp_path / "several", bert).method == "lora"


@pytest.mark.slow
def test_accelerate_launches_them(given: list[str], alone: float, bert: Backbone, tmp_path: Path) -> None:
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["-m", "manyhats.cli", *given, "--out", str(tmp_path / "several")]
    run = subprocess.run(launch, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert abs(loss(run.stdout) - alone) < 0.02
    assert read_adapter(tmp_path / "several", bert).method == "lora"
