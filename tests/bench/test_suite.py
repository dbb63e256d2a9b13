"""`manyhats bench`, on a small model: every figure is there, and says what it is of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from manyhats import cli
from manyhats.backbone import Backbone
from manyhats.bench import suite
from manyhats.bench.report import Figure
from manyhats.bench.tasks import load_tasks, read_texts, unload
from manyhats.errors import InvalidRequest, NotFound
from manyhats.runtime import Runtime
from manyhats.settings import Settings
from typer.testing import CliRunner

from tests.api.live import adapter_files


def write_store(backbone: Backbone, store: Path, **tasks: tuple[str, str]) -> Path:
    """Folders of random adapters: their method and kind, by task."""
    for name, (method, kind) in tasks.items():
        folder = store / name
        folder.mkdir(parents=True)
        for file, data in adapter_files(backbone, method, kind=kind).items():
            (folder / file).write_bytes(data)
    return store


@pytest.fixture
def store(load_backbone: Callable[[str], Backbone], tmp_path: Path) -> Path:
    tasks = {"spam": ("lora", "classify"), "words": ("lora", "tokens"), "meaning": ("bottleneck", "embed")}
    return write_store(load_backbone("bert"), tmp_path / "store", **tasks)


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def test_the_engine_is_measured_by_number_of_tasks_and_by_method(
    load_backbone: Callable[[str], Backbone], store: Path
) -> None:
    backbone = load_backbone("bert")
    runtime = Runtime(Settings(store=store, self_check=False), backbone)
    runtime.open()
    try:
        tasks = load_tasks(runtime)
        assert [task.name for task in tasks] == ["meaning", "spam", "words"]
        effort = suite.Effort(rounds=1)
        figures, rates = suite.engine_figures(runtime, tasks, read_texts(None), effort)
        found = by_name(figures)
        assert {"bare backbone", "1 task to bare", "3 tasks to bare"} <= set(found)
        assert {"method bottleneck (1) to bare", "method lora (2) to bare"} <= set(found)
        assert all(figure.value != 0 for figure in found.values())
        memory = by_name(suite.memory_figures(runtime, tasks))
        assert memory["adapters in slots"].value * 2**20 == pytest.approx(sum(task.adapter.nbytes for task in tasks))
        assert set(rates) == {"inputs", "one task"}
        assert [task.name for task in load_tasks(runtime, ["spam"])] == ["spam"]
        with pytest.raises(NotFound, match="`ham`"):
            load_tasks(runtime, ["spam", "ham"])
        unload(runtime, tasks)
    finally:
        runtime.close()


def test_a_store_without_adapters_is_an_error(load_backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    runtime = Runtime(Settings(store=tmp_path, self_check=False), load_backbone("bert"))
    runtime.open()
    try:
        with pytest.raises(InvalidRequest, match="no adapter that fits"):
            load_tasks(runtime)
    finally:
        runtime.close()


def test_texts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text("one\n\n two \n", encoding="utf-8")
    assert read_texts(file) == ["one", " two "]
    file.write_text("\n", encoding="utf-8")
    for wrong in (file, tmp_path / "none"):
        with pytest.raises(InvalidRequest, match="no texts in"):
            read_texts(wrong)
    assert len(read_texts(None)) == 64


def test_the_command_measures_all_of_it(base_folder: Callable[[str], Path], store: Path, tmp_path: Path) -> None:
    figures, profile = tmp_path / "out" / "figures.json", tmp_path / "profile"
    words = [
        "bench",
        "--backbone",
        str(base_folder("bert")),
        "--store",
        str(store),
        "--rounds",
        "1",
        "--seconds",
        "0.5",
    ]
    words += [
        "--seconds",
        "0.5",
        "--connections",
        "4",
        "--dtype",
        "float32",
        "--json",
        str(figures),
        "--profile",
        str(profile),
    ]
    result = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    written = json.loads(figures.read_text(encoding="utf-8"))
    names = {figure["name"] for figure in written["figures"]}
    assert {"bare backbone", "HTTP: requests", "HTTP: of the engine's rate", "one connection"} <= names
    assert "64 inputs in one call: of the engine's rate" in names
    assert {"processor", "instruction_sets", "versions", "dtype"} <= set(written["machine"])
    assert all(name in result.output for name in names)
    assert "encoder.layer.*.attention.self.query" in result.output
    assert json.loads((profile / "trace.json").read_text(encoding="utf-8"))["traceEvents"]


@pytest.mark.slow
def test_texts_that_are_generated_are_measured_over_streams(
    base_folder: Callable[[str], Path], load_backbone: Callable[[str], Backbone], tmp_path: Path
) -> None:
    store = write_store(load_backbone("llama"), tmp_path / "store", story=("lora", "generate"))
    words = ["bench", "--backbone", str(base_folder("llama")), "--store", str(store), "--rounds", "1"]
    words += ["--seconds", "0.5", "--dtype", "float32", "--json", "-"]
    result = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    names = {figure["name"] for figure in json.loads(result.stdout)["figures"]}
    assert {"bare backbone, streams", "one stream: one task to bare", "HTTP: streams of the engine's rate"} <= names
    assert all(name in result.stderr for name in names)
