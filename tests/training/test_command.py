"""`manyhats train` as a whole: files in, a checked adapter folder with its card out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from manyhats.backbone import Backbone
from manyhats.commands.train import train
from manyhats.core.history import history_of
from manyhats.errors import ConfigurationError, InvalidRequest, ManyhatsError
from manyhats.formats.reader import read_adapter
from manyhats.training.batches import batch_size_for
from manyhats_client import Upload
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
        given = ["--backbone", str(base_folder("bert")), "--task", "parity", "--device", "cpu"]
        given += ["--method", method] if method else []
        given += ["--data", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "out"), "--epochs", "3"]
        return CliRunner().invoke(app, [*given, *options], env={"COLUMNS": "200"})

    return run


def test_trains_writes_and_shows_a_table(invoke: Invoke, bert: Backbone, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    options = ["--option", "rank=2", "--max-tokens", "20", "--learning-rate", "0.02", "--head-learning-rate", "0.02"]
    result = invoke(*options, "--batch-tokens", "200", "--seed", "3")
    assert result.exit_code == 0, result.output
    for shown in ("epoch 1/3: loss", "linear probe on the frozen backbone", "this adapter (lora)", "95 % interval"):
        assert shown in result.output
    adapter = read_adapter(tmp_path / "out", bert)
    assert adapter.rank == 2
    assert dict(adapter.settings) == {"labels": list(LABELS), "max_tokens": 20, "overflow": "truncate"}

    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = dict(line.split(": ", 1) for line in card.split("---\n")[1].splitlines())
    assert json.loads(head["pipeline_tag"]) == "text-classification"
    curves = history_of(card)
    assert curves is not None
    assert (curves.metric, curves.epochs) == ("accuracy", [1, 2, 3])
    assert curves.steps[-1] >= 3
    assert 0 <= json.loads(head["model-index"])[0]["results"][0]["metrics"][0]["value"] <= 1
    for shown in (
        "`even`, `odd`",
        "`train.jsonl` | 120",
        "| seed | 3 |",
        "rank 2",
        bert.sha256,
        "95 % interval",
        "curves.png",
        "batches of at most 200 tokens |",
    ):
        assert shown in card
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


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
    ("options", "message"),
    [
        (["--method", "lroa"], "no method 'lroa' can be trained"),
        (["--sweep", "lora"], "one of --method and --sweep is needed"),
        (["--class-weights", "even"], "--class-weights takes balanced, or LABEL=NUMBER"),
        (["--class-weights", "prime=2"], "there is no label 'prime' to weigh; the labels are even, odd"),
        (["--kind", "embed", "--text-pair", "label", "--class-weights", "balanced"], "class weights mean nothing"),
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
def test_a_mistake_is_said_in_one_line(invoke: Invoke, tmp_path: Path, options: list[str], message: str) -> None:
    result = invoke(*options)
    assert isinstance(result.exception, ManyhatsError)
    assert result.exception.message.startswith(message)
    assert "\n" not in result.exception.message
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_several_methods_takes_options_of_each(invoke: Invoke, bert: Backbone, tmp_path: Path) -> None:
    result = invoke("--option", "prefix.length=3", "--option", "bottleneck.width=4", method="mam")
    assert result.exit_code == 0, result.output
    found = read_adapter(tmp_path / "out", bert)
    assert found.method == "bottleneck+prefix"
    assert [part.method for part in found.components] == ["bottleneck", "prefix"]
    assert found.components[1].config.length == 3  # type: ignore[attr-defined]
    assert "`mam` (prefix.length 3, bottleneck.width 4, size 4)" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_with_files_is_not_overwritten(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    result = invoke()
    assert isinstance(result.exception, InvalidRequest)
    assert "exists and is not an empty folder" in result.exception.message


def test_without_scikit_learn_it_says_what_to_install(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = invoke()
    assert isinstance(result.exception, ConfigurationError)
    message = "training needs scikit-learn, which is not installed: pip install '.[train]' in a clone of Manyhats"
    assert result.exception.message == message


def test_push_uploads_the_finished_folder(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uploaded: dict[str, Any] = {}

    def push(task: str, path: str, url: str, key: str) -> None:
        uploaded.update(task=task, files={p.name for p in Path(path).iterdir()}, url=url, key=key)

    monkeypatch.setattr("manyhats.commands.remote.push", push)
    monkeypatch.setenv("MANYHATS_KEY", "secret")
    result = invoke("--push", "http://host:1", method="mask")
    assert result.exit_code == 0, result.output
    files = {"README.md", "curves.png", "manyhats.json", "weights.safetensors"}
    assert uploaded == {"task": "parity", "files": files, "url": "http://host:1", "key": "secret"}


def test_the_results_may_be_had_as_json(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = {"task": "parity", "version": 4, "sha256": "ab", "method": "lora", "kind": "classify", "bytes": 5}
    monkeypatch.setattr("manyhats.commands.remote.send", lambda *_, **given: Upload(**sent))
    still = ("--learning-rate", "1e-9", "--head-learning-rate", "1e-9")  # so that the probe is not beaten
    result = invoke("--json", "--epochs", "1", "--push", "http://host:1", *still)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["score"]["value"] == pytest.approx(found["score"]["interval"][0], abs=0.6)
    assert set(found["baselines"]) == {"always the commonest answer", "linear probe on the frozen backbone"}
    assert (found["method"], found["kind"], found["epochs"]) == ("lora", "classify", 1)
    assert found["bytes"] > found["parameters"]["method"]
    assert found["out"] == str(tmp_path / "out")
    assert found["pushed"] == sent
    assert found["batch_size"] == 4
    assert found["hints"]
    assert all(f"{number}. {hint}" in result.stderr for number, hint in enumerate(found["hints"], 1))
    assert "this adapter (lora)" in result.stderr


def test_a_recipe_file_gives_what_the_command_line_does_not(invoke: Invoke, bert: Backbone, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('max-tokens = 20\nseed = 5\npatience = 1\n[options]\nrank = 3\ntargets = ["query", "value"]\n')
    result = invoke("--config", str(recipe), "--seed", "6")
    assert result.exit_code == 0, result.output
    adapter = read_adapter(tmp_path / "out", bert)
    assert adapter.rank == 3
    assert adapter.settings["max_tokens"] == 20
    assert "| seed | 6 |" in (tmp_path / "out" / "README.md").read_text()
    recipe.write_text("colour = 1\n")
    refused = invoke("--config", str(recipe))
    assert refused.exit_code == 2
    assert "has the field 'colour'" in refused.output
    assert "learning-rate" in refused.output


def test_a_sweep_ends_in_one_table(invoke: Invoke, bert: Backbone, tmp_path: Path) -> None:
    result = invoke("--sweep", "lora, mask", "--epochs", "1", method="")
    assert result.exit_code == 0, result.output
    table = result.output[result.output.index("parity: on held-out data") :]
    for shown in ("always the commonest answer", "linear probe on the frozen backbone", "lora", "mask", "kB"):
        assert shown in table
    assert read_adapter(tmp_path / "out" / "lora", bert).method == "lora"
    assert read_adapter(tmp_path / "out" / "mask", bert).method == "mask"
    before = (tmp_path / "out" / "mask" / "manyhats.json").stat().st_mtime_ns
    again = invoke("--sweep", "lora,mask,ia3", "--epochs", "1", "--resume", method="")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "out" / "mask" / "manyhats.json").stat().st_mtime_ns == before
    assert "ia3" in again.output[again.output.index("parity: on held-out data") :]
    as_json = invoke("--sweep", "lora,mask,ia3", "--epochs", "1", "--resume", "--json", method="")
    assert [one["method"] for one in json.loads(as_json.stdout)["results"]][2:] == ["lora", "mask", "ia3"]


def test_full_fine_tuning_is_compared_with(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("--full", "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert "full fine-tuning" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "served"), [("multilabel", "classify"), ("span", "span"), ("embed", "embed"), ("rerank", "rerank")]
)
def test_further_kinds(invoke: Invoke, bert: Backbone, tmp_path: Path, kind: Any, served: str) -> None:
    write_jsonl(tmp_path / "more.jsonl", rows(kind, 120, 0))
    result = invoke("--kind", kind, "--data", str(tmp_path / "more.jsonl"), "--max-tokens", "40", method="houlsby")
    assert result.exit_code == 0, result.output
    assert read_adapter(tmp_path / "out", bert).kind == served


def test_a_rerankers_files_say_what_it_is(invoke: Invoke, bert: Backbone, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", rows("rerank", 120, 0))
    result = invoke("--kind", "rerank", "--data", str(data), "--max-tokens", "40")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert json.loads((tmp_path / "out" / "manyhats.json").read_text())["task"]["kind"] == "rerank"
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'pipeline_tag: "text-ranking"' in card
    for shown in ("always the commonest answer", "linear probe on the frozen backbone", "Accuracy at 0.5 over"):
        assert shown in card
    assert read_adapter(tmp_path / "out", bert).kind == "rerank"
    (tmp_path / "out" / "manyhats.json").unlink()
    assert read_adapter(tmp_path / "out", bert).kind == "regress"  # what PEFT's files alone say
    assert read_adapter(tmp_path / "out", bert, kind="rerank").kind == "rerank"


def test_the_batch_size_comes_from_the_rows_unless_it_is_given(invoke: Invoke, tmp_path: Path) -> None:
    size = batch_size_for(97)
    first = invoke("--epochs", "1")
    assert first.exit_code == 0, first.output
    assert f"batch size {size} (from 97 rows)" in first.output
    assert (
        f"| steps | {-(-97 // size)}, batch size {size} (from 97 rows) |"
        in (tmp_path / "out" / "README.md").read_text()
    )
    weights = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()

    again = invoke("--epochs", "1", "--batch-size", str(size), "--out", str(tmp_path / "same"))
    assert f"; batch size {size}\n" in again.output
    assert (tmp_path / "same" / "adapter_model.safetensors").read_bytes() == weights

    other = invoke("--epochs", "1", "--batch-size", "48", "--accumulate", "2", "--out", str(tmp_path / "other"))
    assert "; batch size 48, 2 batches a step\n" in other.output
    assert "| steps | 2, batch size 48, 2 batches a step |" in (tmp_path / "other" / "README.md").read_text()


def test_pairs_keep_their_batches_which_are_each_others_wrong_answers(invoke: Invoke, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", rows("embed", 120, 0))
    result = invoke("--kind", "embed", "--data", str(data), "--epochs", "1", method="houlsby")
    assert "batches of at most 512 tokens" in result.output


def test_a_run_that_does_not_beat_the_probe_says_what_to_try_next(invoke: Invoke) -> None:
    result = invoke("--learning-rate", "0", "--head-learning-rate", "0", "--epochs", "1")
    assert result.exit_code == 0, result.output
    said = result.output[result.output.index("It does not beat this: ") :]
    assert "probe" in said.splitlines()[0]
    assert said.splitlines()[1].startswith("1. The loss hardly fell, from ")
    assert "97 rows are few" in said
