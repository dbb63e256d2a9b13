"""The simulation of many tasks: what its tiers hold, and what follows from figures that are easy to reckon with."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.conftest import ROOT

FIGURES = {
    "memory of a registered task": 5.0,
    "database of a registered task": 2.0,
    "files of a task": 1000.0,
    "memory of a resident task": 1000.0,
    "memory of a server with few tasks": 500.0,
    "weights of the backbone": 100.0,
    "processor's time to open, of a task": 100.0,
    "processor's time of a request": 10.0,
    "processor's time to load an adapter": 10.0,
    "processor's time to load the backbone": 1.0,
}


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which lies beside other benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scale_sim")


def test_tiers_hold_what_was_asked_for_last(sim: Any) -> None:
    asked = [1, 2, 3, 3, 2, 1, 4, 1, 2, 9]
    # Two in slots, one behind them: 1 2 3 are new; 3 and 2 are in slots; 1 lies behind; 4 is new, and so on.
    assert sim.tiers((2, 1), asked, 0) == pytest.approx([0.3, 0.2, 0.5])
    assert sim.tiers((2, 0), asked, 9) == [0.0, 0.0, 1.0]
    assert sim.tiers((0, 5), [1, 1, 1, 1], 0) == [0.0, 0.75, 0.25]


def test_all_that_fits_is_found(sim: Any) -> None:
    replica = sim.Replica(2, 50, 0.0, 0.0, 0.5)
    uniform = sim.popularity(50, 0.0)
    assert uniform.sum() == pytest.approx(1)
    assert sim.simulate(uniform, 1, replica, 1.0, 1.0, affinity=True).slot == 1.0
    more = sim.popularity(200, 0.0)
    alone = sim.simulate(more, 1, replica, 1.0, 1.0, affinity=True)
    assert 0.2 < alone.slot < 0.3
    assert alone.store == pytest.approx(1 - alone.slot)
    # With each task on one of four replicas, each has its own; without, each sees all.
    assert sim.simulate(more, 4, replica, 1.0, 1.0, affinity=True).slot > 0.8
    assert 0.2 < sim.simulate(more, 4, replica, 1.0, 1.0, affinity=False).slot < 0.3


def test_it_prints_what_the_figures_make(sim: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    file = tmp_path / "figures.json"
    file.write_text(json.dumps({"figures": [{"name": name, "value": value} for name, value in FIGURES.items()]}))
    monkeypatch.setattr(sim, "_SAMPLED", 2000)
    words = ["scale_sim", "--figures", str(file), "--tasks", "100,1000", "--requests-a-day", "86400", "--cores", "1"]
    monkeypatch.setattr("sys.argv", [*words, "--busy", "1", "--disk", "0"])
    sim.main()
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for line in capsys.readouterr().out.splitlines()
        if len(cells := line.split("|")) > 3
    }
    assert rows["requests a second"] == ["100", "1,000"]
    assert rows["each task to its replica: replicas"] == ["1", "10"]  # 10 ms each, and all found in slots
    assert rows["each task to its replica: found in a slot"] == ["100.0 %", "100.0 %"]
    assert rows["metadata: memory of each replica"] == ["500 kB", "5 MB"]
    assert rows["full copies: files"] == ["10 GB", "100 GB"]


def test_a_missing_figure_is_named(sim: Any, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text('{"figures": []}')
    with pytest.raises(KeyError, match="registered task"):
        sim.Measured.read(file)
