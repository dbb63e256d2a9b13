"""`config.json` beside an adapter: its kind of problem and its labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest, ManyhatsError
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.heads import KindName

from tests import tiny

Wrote = Callable[..., Path]


@pytest.fixture
def wrote(bert: Backbone, tmp_path: Path) -> Wrote:
    """Writes an adapter with a head of so many outputs, and a config.json beside it."""

    def write(outputs: int, kind: KindName = "classify", **config: Any) -> Path:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        write_adapter(tiny.adapter(bert, "lora", 3, kind=kind, labels=outputs), folder, bert)
        (folder / "manyhats.json").unlink()
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return write


def names(*labels: str) -> dict[str, str]:
    return {str(i): label for i, label in enumerate(labels)}


@pytest.mark.parametrize(
    ("outputs", "problem", "kind", "multi"),
    [
        (3, None, "classify", False),
        (3, "single_label_classification", "classify", False),
        (3, "multi_label_classification", "classify", True),
        (1, None, "regress", False),
        (1, "regression", "regress", False),
        (1, "multi_label_classification", "classify", True),
    ],
)
def test_the_kind_of_problem(
    wrote: Wrote, bert: Backbone, outputs: int, problem: str | None, kind: KindName, multi: bool
) -> None:
    adapter = read_adapter(wrote(outputs, problem_type=problem), bert)
    assert adapter.kind == kind
    assert adapter.head is not None
    assert adapter.head.kind == kind
    assert adapter.settings.get("defaults", {}).get("multi_label", False) is multi
    assert any("problem_type" in warning for warning in adapter.warnings) is multi


@pytest.mark.parametrize(("outputs", "problem"), [(3, "regression"), (1, "single_label_classification")])
def test_a_problem_that_the_head_cannot_be_is_refused_unless_the_kind_is_said(
    wrote: Wrote, bert: Backbone, outputs: int, problem: str
) -> None:
    folder = wrote(outputs, problem_type=problem)
    with pytest.raises(AdapterMismatch, match=f"problem_type of config.json is {problem}"):
        read_adapter(folder, bert)
    assert read_adapter(folder, bert, kind="classify").kind == "classify"


@pytest.mark.parametrize("config", [{"id2label": names("red", "green")}, {"label2id": {"red": 0, "green": 1}}])
def test_labels_are_taken_and_said(wrote: Wrote, bert: Backbone, config: dict[str, Any]) -> None:
    for kind in ("classify", "tokens"):
        adapter = read_adapter(wrote(2, kind, **config), bert)
        assert adapter.settings["labels"] == ["red", "green"]
        assert "labels taken from id2label of config.json" in adapter.warnings


def test_the_names_that_nobody_gave_are_no_labels(wrote: Wrote, bert: Backbone) -> None:
    adapter = read_adapter(wrote(2, id2label=names("LABEL_0", "LABEL_1")), bert)
    assert "labels" not in adapter.settings
    assert not adapter.warnings


def test_our_own_description_goes_first(wrote: Wrote, bert: Backbone) -> None:
    folder = wrote(2, id2label=names("red", "green"))
    (folder / "manyhats.json").write_text(json.dumps({"format": "manyhats-task/1", "task": {"labels": ["a", "b"]}}))
    assert read_adapter(folder, bert).settings["labels"] == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"id2label": names("a", "b")}, AdapterMismatch, "2 labels, but the head has 3 outputs"),
        ({"num_labels": 4}, AdapterMismatch, "4 labels, but the head has 3 outputs"),
        ({"num_labels": 3, "id2label": names("a", "b")}, InvalidRequest, "num_labels 3, but id2label has 2"),
        ({"num_labels": True}, InvalidRequest, "num_labels"),
        ({"problem_type": "ranking"}, InvalidRequest, "problem_type of config.json is 'ranking'"),
        ({"id2label": ["a", "b", "c"]}, InvalidRequest, "must be an object"),
        ({"id2label": {"0": "a", "1": "b", "3": "c"}}, InvalidRequest, "from 0 on"),
        ({"id2label": {"0": "a", "00": "b", "1": "c"}}, InvalidRequest, "from 0 on"),
        ({"id2label": {"zero": "a"}}, InvalidRequest, "from output numbers to names"),
        ({"id2label": {"0": ["a"]}}, InvalidRequest, "from output numbers to names"),
        ({"id2label": {"9" * 400: "a"}}, InvalidRequest, "from output numbers to names"),
        ({"id2label": {}}, InvalidRequest, "from 0 on"),
    ],
)
def test_contradictions_are_named(
    wrote: Wrote, bert: Backbone, config: dict[str, Any], error: type[ManyhatsError], message: str
) -> None:
    folder = wrote(3, **config)
    with pytest.raises(error, match=message) as caught:
        read_adapter(folder, bert)
    assert len(caught.value.message) < 1000


def test_nothing_is_taken_for_an_adapter_without_a_head(wrote: Wrote, bert: Backbone) -> None:
    adapter = read_adapter(wrote(0, "embed", problem_type="multi_label_classification", id2label=names("a")), bert)
    assert adapter.kind == "embed"
    assert not adapter.settings
    assert not adapter.warnings


def test_a_cross_encoders_activation_is_told(wrote: Wrote, bert: Backbone) -> None:
    own = {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.0"}
    (warning,) = read_adapter(wrote(1, sentence_transformers=own), bert).warnings
    assert "Sigmoid" in warning
    own["activation_fn"] = "torch.nn.modules.linear.Identity"
    assert not read_adapter(wrote(1, sentence_transformers=own), bert).warnings


def test_what_is_said_of_an_activation_is_said_by_the_kind_that_the_uploader_states(
    wrote: Wrote, bert: Backbone
) -> None:
    folder = wrote(1, sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid"})
    (warning,) = read_adapter(folder, bert).warnings
    assert "a value is the head's own output" in warning
    (warning,) = read_adapter(folder, bert, kind="classify").warnings
    assert "scores are a softmax or sigmoid" in warning
    assert not read_adapter(folder, bert, kind="rerank").warnings  # whose score is that sigmoid
