"""`manyhats train` as a whole: files in, a checked adapter folder with its card out."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from manyhats.backbone import Backbone
from manyhats.commands.train import train
from manyhats.errors import ConfigurationError, InvalidRequest, ManyhatsError
from manyhats.formats import read_adapter
from typer.testing import CliRunner

from tests.training.samples import LABELS, rows, write_jsonl

Invoke = Callable[..., Any]


@pytest.fixture
def invoke(base_folder: Callable[[str], Path], tmp_path: Path) -> Invoke:
    """Runs the command on the tiny BERT with the given options."""
    app = typer.Typer()
    app.command()(train)
    write_jsonl(tmp_path / "train.jsonl", rows("classify", 120, 0))

    def run(*options: str, method: str = "lora") -> Any:
        given = ["--backbone", str(base_folder("bert")), "--task", "parity", "--device", "cpu", "--method", method]
        given += ["--data", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "out"), "--epochs", "3"]
        return CliRunner().invoke(app, [*given, *options], env={"COLUMNS": "200"})

    return run


def test_trains_writes_and_shows_a_table(invoke: Invoke, bert: Backbone, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    options = ["--option", "rank=2", "--max-tokens", "20", "--learning-rate", "0.02", "--head-learning-rate", "0.02"]
    result = invoke(*options, "--batch-tokens", "200", "--seed", "3")
    assert result.exit_code == 0, result.output
    for told in ("epoch 1/3: loss", "linear probe on the frozen backbone", "this adapter (lora)", "95 % interval"):
        assert told in result.output
    adapter = read_adapter(tmp_path / "out", bert)
    assert adapter.rank == 2
    assert dict(adapter.settings) == {"labels": list(LABELS), "max_tokens": 20, "overflow": "truncate"}

    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = dict(line.split(": ", 1) for line in card.split("---\n")[1].splitlines())
    assert json.loads(head["pipeline_tag"]) == "text-classification"
    assert 0 <= json.loads(head["model-index"])[0]["results"][0]["metrics"][0]["value"] <= 1
    for told in ("`even`, `odd`", "`train.jsonl` | 120", "| seed | 3 |", "rank 2", bert.sha256, "Wilson"):
        assert told in card
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["tokens", "regress"])
def test_the_other_kinds_come_from_csv(invoke: Invoke, bert: Backbone, tmp_path: Path, kind: Any) -> None:
    made = rows(kind, 120, 0)
    names = list(made[0])
    lines = [",".join(names)]
    lines += [",".join(" ".join(v) if isinstance(v, list) else str(v) for v in row.values()) for row in made]
    (tmp_path / "data.csv").write_text("\n".join(lines), encoding="utf-8")
    result = invoke("--kind", kind, "--data", str(tmp_path / "data.csv"), method="bottleneck")
    assert result.exit_code == 0, result.output
    assert read_adapter(tmp_path / "out", bert).kind == kind


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--method", "lroa"], "no method 'lroa' can be trained"),
        (["--option", "rank"], "--option takes NAME=VALUE, not 'rank'"),
        (["--option", "colour=red"], "lora has no option 'colour'"),
        (["--max-tokens", "65"], "max-tokens must lie between 3 and 64"),
        (["--method", "prefix", "--max-tokens", "60"], "max-tokens must lie between 3 and 48"),
        (["--label", "class"], "train.jsonl, row 1: there is no column 'class'; the columns are: text, label"),
        (["--data", "absent.csv"], "the data file 'absent.csv' does not exist"),
        (["--backbone", "./absent"], "the backbone folder './absent' does not exist"),
        (["--task", "a b"], "'a b' is no task name"),
        (["--kind", "tokens"], "train.jsonl, row 1: there is no column 'tokens'"),
    ],
)
def test_a_mistake_is_said_in_one_line(invoke: Invoke, tmp_path: Path, options: list[str], told: str) -> None:
    result = invoke(*options)
    assert isinstance(result.exception, ManyhatsError)
    assert result.exception.message.startswith(told)
    assert "\n" not in result.exception.message
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_overwritten(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    result = invoke()
    assert isinstance(result.exception, InvalidRequest)
    assert "exists and is not an empty folder" in result.exception.message


def test_without_scikit_learn_it_says_what_to_install(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *given: Any, **named: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    result = invoke()
    assert isinstance(result.exception, ConfigurationError)
    assert "pip install 'manyhats[train]'" in result.exception.message


def test_push_uploads_the_finished_folder(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}

    def push(task: str, path: Path, url: str, key: str) -> None:
        asked.update(task=task, files={p.name for p in path.iterdir()}, url=url, key=key)

    monkeypatch.setattr("manyhats.commands.remote.push", push)
    monkeypatch.setenv("MANYHATS_KEY", "secret")
    result = invoke("--push", "http://host:1", method="mask")
    assert result.exit_code == 0, result.output
    files = {"README.md", "manyhats.json", "weights.safetensors"}
    assert asked == {"task": "parity", "files": files, "url": "http://host:1", "key": "secret"}
