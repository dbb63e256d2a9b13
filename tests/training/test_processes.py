"""Several processes train one adapter."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from manyhats.backbone import Backbone
from manyhats.formats import read_adapter

from tests.training.samples import rows, write_jsonl


def test_two_processes_share_each_step(base_folder: Callable[[str], Path], bert: Backbone, tmp_path: Path) -> None:
    """Rates of almost nothing leave the weights as they start, so that the losses can be compared."""
    write_jsonl(tmp_path / "train.jsonl", rows("classify", 200, 0))
    given = ["train", "--backbone", str(base_folder("bert")), "--task", "parity", "--method", "lora", "--device", "cpu"]
    given += ["--data", str(tmp_path / "train.jsonl"), "--epochs", "1", "--batch-tokens", "80"]
    given += ["--learning-rate", "1e-9", "--head-learning-rate", "1e-9"]
    folder = Path(sys.executable).parent
    launch = [str(folder / "accelerate"), "launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "manyhats.cli"]

    def losses(command: list[str]) -> list[float]:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert run.returncode == 0, run.stdout + run.stderr
        return [float(found) for found in re.findall(r"epoch 1/1: loss ([0-9.]+)", run.stdout)]

    (several,) = losses([*launch, *given, "--out", str(tmp_path / "several")])  # one of them tells
    (one,) = losses([str(folder / "manyhats"), *given, "--accumulate", "2", "--out", str(tmp_path / "one")])
    assert abs(several - one) < 0.02  # dropout differs
    assert read_adapter(tmp_path / "several", bert).method == "lora"
