"""A score for a document by a query: its answer, its rows, its loss and its metric."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone, Text
from manyhats.core.kinds.examples import Columns, EncodedExample, Example
from manyhats.core.kinds.registry import KINDS, TRAININGS, check_head, kinds_of_head
from manyhats.core.kinds.rerank import Rerank
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.methods.heads import Head, Layer
from manyhats.training.data import load, split
from manyhats.training.files import read_examples

from tests.core.kinds.test_render import render
from tests.training.samples import rows, write_jsonl

TRAINING = TRAININGS["rerank"]


def one_output(kind: str, outputs: int = 1) -> Head:
    return Head(kind, "first", (Layer(torch.zeros(outputs, 32), None),))


def judged(*targets: float) -> list[EncodedExample]:
    return [EncodedExample([1], [0], target, truncated=False) for target in targets]


def test_a_score_is_a_sigmoid_or_the_output_as_it_is() -> None:
    assert render("rerank", [1.5]) == {"score": pytest.approx(1 / (1 + math.exp(-1.5)))}
    assert render("rerank", [1.5], raw_scores=True) == {"score": 1.5}
    assert render("rerank", [-500]) == {"score": 0}


def test_a_query_without_a_document_is_refused() -> None:
    parameters = Rerank.parameters()
    KINDS["rerank"].check_texts([Text("q", "d")], parameters, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="needs the query in 'text' and the document in 'text_pair'"):
        KINDS["rerank"].check_texts([Text("q", "d"), Text("q")], parameters, None)  # type: ignore[arg-type]


def test_only_a_head_of_one_output_over_a_text_ranks(bert: Backbone) -> None:
    for kind in ("classify", "regress", "rerank"):
        assert kinds_of_head(one_output(kind)) == ("classify", "regress", "rerank")
    assert kinds_of_head(one_output("classify", 2)) == ("classify",)
    with pytest.raises(AdapterMismatch, match="a head of kind 'rerank' has 1 output, not 2"):
        check_head(one_output("rerank", 2), bert)


@pytest.mark.parametrize("label", [0, 1, 0.25, "1", "0.5", True])
def test_a_label_is_a_number_from_0_to_1(tmp_path: Path, label: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "q", "document": "d", "label": label}])
    assert read_examples(path, TRAINING, Columns()) == [Example("q", "d", (), float(label))]
    path = write_jsonl(tmp_path / "b.jsonl", [{"query": "q", "passage": "d", "label": label}])
    named = Columns(text="query", text_pair="passage")
    assert read_examples(path, TRAINING, named) == [Example("q", "d", (), float(label))]


@pytest.mark.parametrize("row", [{"document": "d", "label": 2}, {"document": " ", "label": 1}, {"label": 1}])
def test_other_rows_are_refused_by_their_number(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "q", **row}])
    with pytest.raises(InvalidRequest, match=r"a\.jsonl, row 1: "):
        read_examples(path, TRAINING, Columns())


@pytest.mark.parametrize(("label", "where"), [(0.2, "below 0.5"), (1, "from 0.5 on")])
def test_there_must_be_relevant_and_irrelevant_documents(tmp_path: Path, label: float, where: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"q{i}", "document": "d", "label": label} for i in range(30)])
    with pytest.raises(InvalidRequest, match=f"every label of a.jsonl is {where}"):
        load(TRAINING, Columns(), path)


def test_a_query_stands_on_one_side_of_a_split() -> None:
    made = [Example(f"q{i // 5}", f"d{i}", (), float(i % 5 == 0)) for i in range(100)]
    kept, held = split(made, TRAINING, 0.2, random.Random(0))
    assert (len(kept), len(held)) == (80, 20)
    assert not {example.text for example in kept} & {example.text for example in held}


def test_the_loss_is_binary_cross_entropy() -> None:
    outputs = [torch.tensor([2.0]), torch.tensor([-1.0]), torch.tensor([0.5])]
    expected = [-math.log(1 / (1 + math.exp(-2))), -math.log(1 - 1 / (1 + math.exp(1)))]
    sigmoid = 1 / (1 + math.exp(-0.5))
    expected.append(-(0.3 * math.log(sigmoid) + 0.7 * math.log(1 - sigmoid)))
    assert float(TRAINING.loss(outputs, judged(1, 0, 0.3))) == pytest.approx(sum(expected) / 3)


def test_it_is_judged_at_a_half() -> None:
    outputs = [torch.tensor([value]) for value in (3.0, -0.1, 0.0, 0.2)]
    score = TRAINING.score(outputs, judged(1, 0.4, 0.6, 0))
    assert (score.value, score.count) == (0.75, 4)
    assert score.interval is not None
    baseline = TRAINING.constant_baseline(judged(0, 0, 1), judged(0, 0, 0, 1))
    assert baseline is not None
    assert baseline.score.value == 0.75


def test_both_texts_are_read_in_one_pass(bert: Backbone) -> None:
    (made,) = TRAINING.encode([Example("w1 w2", "w3", (), 1.0)], [], bert, 40)
    assert (len(made.ids), made.type_ids, made.target) == (6, [0, 0, 0, 0, 1, 1], 1.0)


def test_an_activation_that_the_score_has_is_not_told() -> None:
    kind = KINDS["rerank"]
    assert kind.activation_warning("Sigmoid", "config.json") is None
    assert kind.activation_warning("Tanh", "config.json") == (
        "the activation Tanh in config.json is not applied; a score is a sigmoid of the head's output"
    )


def test_the_samples_can_be_split() -> None:
    assert {row["label"] for row in rows("rerank", 20, 0)} == {0, 1}
