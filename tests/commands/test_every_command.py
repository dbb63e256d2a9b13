"""What holds for every command: `--json`, and 2 for words that it cannot do anything with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from manyhats import cli
from manyhats.commands.lazy import LazyFigures
from typer.main import get_command
from typer.testing import CliRunner

from tests.commands.asking import Server, refused, run

RUNS = {"serve", "scale"}  # until it is ended: what it has to say is the log
TASK = {"name": "spam", "aliases": {"stable": 4}, "residency": "slot"}
PLACEMENTS = ["load", "unload", "lift", "pin", "unpin"]


def commands() -> Iterator[tuple[str, Any]]:
    """Each command's words, and the command."""

    def below(words: tuple[str, ...], command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for name, one in command.commands.items():
                yield from below((*words, name), one)
        else:
            yield " ".join(words), command

    return below((), get_command(cli.app))


COMMANDS = dict(commands())


def test_these_are_all() -> None:
    promised = {
        "serve",
        "push",
        "tasks",
        "show",
        "rollback",
        "predict",
        "train",
        "convert",
        "doctor",
        "delete",
        "download",
    }
    promised |= {"alias", "set", "audit", "bench", "keys create", "keys list", "keys revoke", *PLACEMENTS}
    assert promised <= COMMANDS.keys()


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - RUNS))
def test_has_json_among_its_options(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert "--json" in options
    if len(name.split()) == 1 and "--url" in options:
        assert "--key" in options


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_option_that_is_not_there_is_wrong_usage(name: str) -> None:
    result = CliRunner().invoke(cli.app, [*name.split(), "--nonsense"])
    assert result.exit_code == 2
    assert "No such option" in result.stderr
    assert not result.stdout


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_json_is_all_that_a_command_prints(server: Server, tmp_path: Path) -> None:
    version = {
        "version": 4,
        "sha256": "ab",
        "method": "lora",
        "kind": "classify",
        "rank": 8,
        "matched_tensors": 1,
        "bytes": 1,
    }
    uploaded = version | {"task": "spam", "aliases": {"stable": 4}, "warnings": ["it is old"]}
    prediction = {
        "id": "1",
        "task": "spam",
        "version": 4,
        "sha256": "ab",
        "kind": "regress",
        "outputs": [{"value": 1.0}],
    }
    prediction |= {
        "usage": {"input_tokens": 1, "output_tokens": 0},
        "timing": dict.fromkeys(("queue_ms", "load_ms", "compute_ms"), 0),
    }
    prediction |= {"batch": {"id": 1, "sequences": 1, "tasks": 1, "methods": []}}

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.endswith("/download"):
            return httpx.Response(200, content=b"files")
        if request.method == "DELETE":
            return httpx.Response(200, json=TASK) if "aliases" in path else httpx.Response(204)
        if path == "/v1/predict":
            return httpx.Response(200, json={"results": [prediction]})
        bodies = {
            "/v1/tasks": {"data": [], "next_page_token": None},
            "/v1/audit": {"data": [], "next_page_token": None},
        }
        bodies |= {"/v1/tasks/spam/versions": uploaded, "/v1/tasks/spam/predict": prediction}
        bodies |= {"/v1/tasks/spam/aliases/stable": {"task": "spam", "alias": "stable", "version": 4}}
        return httpx.Response(200, json=bodies.get(path, TASK) if request.method != "PUT" else TASK)

    server.answer = answer
    for words in (
        ["tasks"],
        ["show", "spam"],
        ["set", "spam", "max_tokens=9"],
        ["alias", "spam", "stable"],
        ["alias", "spam", "stable", "4"],
        ["rollback", "spam"],
        ["delete", "spam@4", "--yes"],
        ["delete", "spam@canary", "--yes"],
        *([verb, "spam"] for verb in PLACEMENTS),
        ["predict", "spam", "a text"],
        ["audit"],
        ["push", "spam", adapter(tmp_path / "adapter")],
        ["download", "spam@4", tmp_path],
        ["keys", "list", "--store", tmp_path],
        ["convert", tmp_path / "adapter", tmp_path / "out"],
        ["doctor"],
    ):
        assert json.loads(run(*words, "--json")[0]) is not None, words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "sp am"], "sp am"),
        (["lift", "-"], "'-'"),
        (["set", "spam", "max_tokens"], "set takes NAME=VALUE"),
        (["set", "base", "max_tokens=9"], "base"),
        (["alias", "spam", "Stable!", "3"], "Stable!"),
        (["alias", "spam", "stable", "2=0"], "an alias points at a version"),
        (["alias", "spam", "canary", "2", "--shadow", "much"], "a shadow is a version"),
        (["alias", "spam", "canary", "2", "--max-p95-ms", "3"], "--max-p95-ms needs --canary"),
        (["download", "spam", "/nowhere/at/all"], "is no folder"),
        (["delete", "spam"], "--yes says so"),
        (["predict", "spam", "--file", "/nowhere/at/all"], "is no file"),
        (["push", "spam", "{adapter}", "--examples", "/nowhere/at/all"], "--examples: '/nowhere/at/all' is no file"),
        (["push", "sp am", "{adapter}"], "sp am"),
        (["tasks", "--url", "not an address"], "--url"),
        (["bench", "--backbone", "x", "--texts", "/nowhere/at/all"], "there are no texts in /nowhere/at/all"),
    ],
)
def test_words_that_mean_nothing_are_wrong_usage(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(adapter(tmp_path / "adapter"))
    assert says in refused(monkeypatch, capsys, *(word.replace("{adapter}", folder) for word in words), code=2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "magic"], "no method 'magic' can be trained"),
        (["--sweep", "lora,lora"], "--sweep takes names of methods, each once"),
        (["--method", "lora", "--sweep", "all"], "one of --method and --sweep is needed"),
        (["--method", "lora", "--option", "rank"], "--option takes NAME=VALUE"),
        (["--method", "lora", "--class-weights", "spam"], "class"),
        (["--task", "sp am", "--method", "lora"], "sp am"),
    ],
)
def test_a_training_that_cannot_be_meant_is_wrong_usage(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["train", "--task", "spam", "--backbone", "x", "--data", "rows.csv", "--out", str(tmp_path / "out")]
    assert says in refused(monkeypatch, capsys, *own, *words, code=2)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["--json"], "-"),
        (["--json", "-"], "-"),
        (["--json", "figures.json"], "figures.json"),
        (["--json", "--rounds", "2"], "-"),
        ([], "None"),
    ],
)
def test_json_of_figures_may_stand_alone(words: list[str], file: str) -> None:
    def figures(json_file: Path | None = typer.Option(None, "--json"), rounds: int = 1) -> None:
        typer.echo(f"{json_file} {rounds}")

    app = typer.Typer()
    app.command("figures", cls=LazyFigures)(lambda: figures)
    app.command("other")(lambda: None)
    assert CliRunner().invoke(app, ["figures", *words]).output == f"{file} {2 if '--rounds' in words else 1}\n"
