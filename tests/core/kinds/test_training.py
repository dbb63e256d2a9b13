"""What training knows of each kind: its rows, its targets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from manyhats.backbone import Backbone
from manyhats.core.kinds.examples import IGNORED, AnswerSpan, Columns, Example
from manyhats.core.kinds.registry import KINDS, TRAININGS
from manyhats.core.kinds.training import LabelledTraining
from manyhats.errors import InvalidRequest
from manyhats.training.files import read_examples

from tests.training.samples import write_jsonl


def test_what_is_trained_is_served() -> None:
    for name, training in TRAININGS.items():
        kind = KINDS[training.served_as.name]
        assert training.name == name
        assert type(kind) is type(training.served_as)
        assert kind.libraries.pipeline
        assert training.labelled == isinstance(training, LabelledTraining)


@pytest.mark.parametrize(
    ("row", "span", "message"),
    [
        ({"text": "q", "context": "a b c", "label": "b"}, AnswerSpan(2, 3), None),
        ({"text": "q", "context": "b b", "label": "b", "answer_start": 2}, AnswerSpan(2, 3), None),
        ({"text": "q", "context": "b b", "label": {"text": ["b"], "answer_start": [2]}}, AnswerSpan(2, 3), None),
        ({"text": "q", "context": "b b", "label": "b"}, None, "stands 2 times in its context; say where it starts"),
        ({"text": "q", "context": "a", "label": "b"}, None, "does not stand in its context"),
        ({"text": "q", "context": "a b", "label": "b", "answer_start": 1}, None, "does not stand at 1"),
    ],
)
def test_answers_have_a_span(
    tmp_path: Path, row: dict[str, object], span: AnswerSpan | None, message: str | None
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    if message is None:
        assert read_examples(path, TRAININGS["span"], Columns())[0].target == span
        return
    with pytest.raises(InvalidRequest, match=message):
        read_examples(path, TRAININGS["span"], Columns())


def test_several_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\none,"x, y"\ntwo,\nthree,y\n', encoding="utf-8")
    assert [e.target for e in read_examples(path, TRAININGS["multilabel"], Columns())] == [("x", "y"), (), ("y",)]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_words_carry_their_tag_on_their_first_token(load_backbone: Callable[[str], Backbone], family: str) -> None:
    examples = [Example("", None, ("w1", "w2", "w3"), ("A", "B", "A"))]
    backbone = load_backbone(family)
    (encoded,) = TRAININGS["tokens"].encode(examples, ["A", "B"], backbone, 40)
    assert encoded.target == [IGNORED, 0, 1, 0, IGNORED]
    (truncated,) = TRAININGS["tokens"].encode(examples, ["A", "B"], backbone, 4)
    assert (truncated.target, truncated.truncated, len(truncated.ids)) == ([IGNORED, 0, 1, IGNORED], True, 4)


def test_pairs_are_encoded_together(bert: Backbone) -> None:
    (encoded,) = TRAININGS["classify"].encode([Example("w1 w2", "w3", (), "B")], ["A", "B"], bert, 40)
    assert (len(encoded.ids), encoded.type_ids, encoded.target) == (6, [0, 0, 0, 0, 1, 1], 1)
