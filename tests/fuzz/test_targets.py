"""Every parser with what is kept of earlier runs, and with inputs that are made here."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import pytest
from manyhats.errors import EngineFailure, InvalidRequest

from tests.amounts import tried
from tests.fuzz import corpus, worker
from tests.fuzz.contract import LONGEST_MESSAGE, Broken, Check, Target, execute
from tests.fuzz.instrumented import INSTRUMENTED
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

# Jinja and Python warn of what a template or an expression says oddly.
pytestmark = pytest.mark.filterwarnings("ignore")
_READ_AGAIN = 40  # kept inputs of a target that every run reads; the slow tests read all


@cache
def check_of(name: str) -> Check:
    """A target, prepared once."""
    return TARGETS[name].make()


def test_every_target_has_its_coverage_and_its_corpus() -> None:
    assert set(INSTRUMENTED) == set(TARGETS)
    assert {path.stem for path in corpus.CORPUS.iterdir()} == set(TARGETS)
    assert {path.name.partition("--")[0] for path in corpus.FINDINGS.glob("*.bin")} <= set(TARGETS)
    kept = [*corpus.CORPUS.iterdir(), *corpus.FINDINGS.iterdir()]
    assert sum(path.stat().st_size for path in kept) < 1 << 20


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_in_order(name: str) -> None:
    """At least one seed of each target gives a value: what is made of seeds gets behind the first check."""
    target = TARGETS[name]
    assert target.seeds()
    assert all(len(seed) <= target.longest for seed in target.seeds())
    assert any(execute(check_of(name), seed) is None for seed in target.seeds())


@tried(_READ_AGAIN, 1 << 20)
@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept(name: str, amount: int) -> None:
    inputs = corpus.kept(name)
    for data in inputs[:: max(len(inputs) // amount, 1)]:
        execute(check_of(name), data)
    for file, data in corpus.findings(name).items():
        try:
            execute(check_of(name), data)
        except Exception as error:
            error.add_note(f"tests/fuzz/findings/{file} is found again")
            raise


@tried(60, 1500)
@pytest.mark.parametrize("name", TARGETS)
def test_what_is_made_up(name: str, amount: int) -> None:
    target = TARGETS[name]
    inputs = mutated(random.Random(name), [*target.seeds(), *corpus.kept(name)], target.words, target.longest)
    for _ in range(amount):
        data = next(inputs)
        try:
            execute(check_of(name), data)
        except Exception as error:
            error.add_note(f"the input was {data!r}")
            raise


# ---- the contract itself


def refusing(message: str) -> Check:
    """A target that refuses everything."""

    def check(data: bytes) -> None:
        raise InvalidRequest(message)

    return check


def test_the_contract_is_held() -> None:
    assert execute(len, b"") is None
    assert execute(refusing("no"), b"") == "no"
    for message in ("", "x" * (LONGEST_MESSAGE + 1)):
        with pytest.raises(Broken, match="characters"):
            execute(refusing(message), b"")
    assert execute(refusing("\ud800"), b"") == "\ud800"  # is escaped in the answer

    def fails(data: bytes) -> None:
        raise EngineFailure("ours")

    with pytest.raises(Broken, match="500"):
        execute(fails, b"")
    with pytest.raises(ValueError, match="invalid literal"):
        execute(lambda data: int(data), b"x")


def test_a_worker_counts_and_keeps_what_breaks_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(worker.importlib.util, "find_spec", lambda name: None)  # without atheris
    good, bad = Target(lambda: len, lambda: [b"seed"]), Target(lambda: breaks, lambda: [b"seed"])
    monkeypatch.setitem(TARGETS, "good", good)
    monkeypatch.setitem(TARGETS, "bad", bad)
    assert worker.main("good", 300, 60, tmp_path / "good") == 0
    assert json.loads((tmp_path / "good" / "figures.json").read_text())["executions"] == 300
    assert worker.main("bad", 10_000, 60, tmp_path / "bad") == 1
    (kept,) = (tmp_path / "bad").glob("crash-*")
    with pytest.raises(KeyError):
        breaks(kept.read_bytes())
    assert "KeyError" in capsys.readouterr().err


def breaks(data: bytes) -> None:
    """Breaks at most inputs."""
    if data != b"seed":
        raise KeyError(data)
