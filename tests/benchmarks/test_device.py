"""The look at a GPU, tried without one in small shapes: every block reports what it is there for, and no failures."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.conftest import ROOT

Import = Callable[[str], Any]

MINUTES = 30  # a busy machine may take; nothing depends on it
# Of each block, what its results are called, or how that begins.
KEYS = {
    "a": ("versions", "card", "kernels", "copy_gb_s", "product_tflops", "host_us", "to_device_gb_s"),
    "k": (
        "bf16/pairs, steps",
        "bf16/pairs, joined, steps",
        "fp32/masks, passes",
        "fp16/sparse, passes",
        "fp32/attention of steps",
        "bf16/attention of few",
    ),
    "c": ("bert fp32", "llama bf16", "gpt2 fp32", "llama/generation", "llama/swaps", "rotary table"),
    "e": ("bf16/bare", "bf16/8 lora", "bf16/8 mask", "bf16/8 twelve", "bf16/16 lora", "fp32/8 lora", "beside PEFT"),
    "f": (
        "8B/backbone",
        "8B/8 streams, 4 lora",
        "8B/12 streams, 12 lora",
        "8B/8 streams, 4 mask",
        "1B/8 streams, bare",
    ),
    "g": ("from memory to a slot: lora", "from memory to a slot: mask", "steps, ms", "from memory to the first token"),
    "h": ("encoder pass, 32 lora", "decode step"),
    "d": ("pytest -m gpu", "the kernels' tests", "generation over HTTP"),
}


def look(folder: Path, blocks: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the command writes down, and what it prints."""
    command = [sys.executable, "benchmarks/device.py", "--device", "cpu", "--small", "--blocks", ",".join(blocks)]
    limits = ["--total", str(MINUTES * 60), "--slack", "20"]
    done = subprocess.run(
        [*command, *limits, "--out", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=MINUTES * 60 + 60,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )
    found: dict[str, Any] = json.loads((folder / "device.json").read_text(encoding="utf-8"))
    return found, done.stdout


def check(found: dict[str, Any], printed: str, blocks: Sequence[str], targets: Any) -> None:
    for block in blocks:
        entry = found["blocks"][block]
        assert entry["errors"] == [], entry["errors"]
        assert entry["status"] == "ok"
        for key in KEYS[block]:
            assert any(name.startswith(key) for name in entry["results"]), (block, key, list(entry["results"]))
        expected = {target.figure for target, own in targets.items() if own == block}
        assert set(entry["figures"]) == expected
    for target in targets:
        assert f"  {target.figure}: " in printed


def test_one_block(tmp_path: Path, device: Import) -> None:
    found, printed = look(tmp_path, ["g"])
    check(found, printed, ["g"], device("targets").TARGETS)
    verdicts = {one["verdict"] for one in found["targets"].values()}
    assert verdicts == {"a trial, which says nothing", "not measured"}


@pytest.mark.slow
@pytest.mark.long
def test_every_block(tmp_path: Path, device: Import) -> None:
    pytest.importorskip("triton", reason="Triton is not installed, whose interpreter runs the kernels' block")
    if importlib.util.find_spec("peft") is None:
        pytest.skip("PEFT is not installed, which two blocks compare with")
    found, printed = look(tmp_path, list(KEYS))
    targets = device("targets").TARGETS
    check(found, printed, list(KEYS), targets)
    exact = [target.figure for target in targets if target.limit == 0]
    assert len(exact) == 3
    assert {name: found["targets"][name]["figure"] for name in exact} == dict.fromkeys(exact, 0)


def test_all_blocks_are_tried(device: Import) -> None:
    blocks = device("blocks").BLOCKS
    assert set(blocks) == set(KEYS)
    for block in blocks.values():
        assert callable(device(block.module).run)


@pytest.mark.parametrize("total", [480, 235, 100])
def test_with_less_time_the_first_blocks_run(device: Import, total: float) -> None:
    blocks = device("blocks")
    names, left, begun = list(blocks.BLOCKS), float(total), []
    for i, name in enumerate(names):
        share = blocks.limit(name, names[i + 1 :], left)
        assert share <= left
        if share >= blocks.BLOCKS[name].least:
            begun.append(name)
            left -= share  # each takes all that it may
    assert begun == names[: len(begun)]
    assert len(begun) == {480: 8, 235: 7, 100: 3}[total]


def test_a_target_is_met_missed_or_not_measured(device: Import) -> None:
    own = device("targets")
    kernels, methods, few, many = own.KERNELS, own.METHODS, own.ENCODER_32, own.ENCODER_256
    blocks = {
        "k": {"figures": {kernels: 0}, "errors": [{"where": "bf16/heads"}]},
        "c": {"figures": {methods: 0}, "errors": []},
        "e": {"figures": {few: 1.2, many: 1.7}, "errors": []},
    }
    found = own.verdicts({"about": {"small": False, "device": "cuda"}, "blocks": blocks})
    assert list(found) == [target.figure for target in own.TARGETS]
    assert found[kernels] == {"target": "at most 0", "figure": 1, "verdict": "missed"}  # a failure is one too
    said = {name: one["verdict"] for name, one in found.items()}
    assert (said.pop(kernels), said.pop(methods)) == ("missed", "met")
    assert (said.pop(few), said.pop(many)) == ("met", "missed")
    assert set(said.values()) == {"not measured"}


def test_the_time_limit_is_no_difference(device: Import) -> None:
    own = device("targets")
    late = {"where": "llama/bfloat16 cuda", "message": own.TIME_LIMIT}
    other = {"where": "bert fp32 cuda", "message": "RuntimeError: no"}
    for errors, figure, verdict in (
        ([late], 0, "met by what the time was enough for"),
        ([late, other], 1, "missed"),
    ):
        block = {"status": "timeout", "figures": {own.METHODS: 0}, "errors": errors}
        found = own.verdicts({"about": {"small": False, "device": "cuda"}, "blocks": {"c": block}})[own.METHODS]
        assert (found["figure"], found["verdict"]) == (figure, verdict)
