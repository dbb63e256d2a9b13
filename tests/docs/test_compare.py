"""What counts as a difference between a page and a run, and what does not."""

from __future__ import annotations

import json

import pytest

from tests.docs.compare import difference, written
from tests.docs.handled import how, output_of
from tests.docs.pages import Block
from tests.docs.write import rewritten

ANSWER = {
    "id": "pred-1",
    "task": "spam",
    "outputs": [{"label": "spam", "score": 0.91}, {"label": "ham", "score": 0.73}],
    "timing": {"queue_ms": 0.2, "compute_ms": 11.0},
    "batch": {"id": 3, "tasks": 1},
}


def changed(path: str, value: object) -> str:
    """The answer with one field changed."""
    answer = json.loads(json.dumps(ANSWER))
    *way, last = path.split(".")
    place = answer
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    place[last] = value
    return json.dumps(answer)


@pytest.mark.parametrize(
    ("path", "value"), [("id", "pred-2"), ("timing.compute_ms", 99.5), ("batch.id", 8), ("outputs.0.score", 0.905)]
)
def test_what_changes_from_run_to_run_is_no_difference(path: str, value: object) -> None:
    assert difference(json.dumps(ANSWER), changed(path, value)) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("task", "ham"),
        ("batch.tasks", 2),
        ("outputs.0.score", 0.85),
        ("outputs.1.label", "spam"),
        ("outputs", [{"label": "spam", "score": 0.91}]),
        ("outputs.0.more", 1),
    ],
)
def test_anything_else_in_json_is(path: str, value: object) -> None:
    assert difference(json.dumps(ANSWER), changed(path, value)) is not None


TABLE = "epoch 1/1: loss 0.2821, validation accuracy 95.9 %, 39 s\n│ this adapter (ia3) │   95.3 % │ 92.8 to 97.6 % │\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [("39 s", "121 s"), ("0.2821", "0.2825"), ("95.3 %", "94.1 %"), ("92.8", "92.9"), ("%, 39 s", "%, 39 s  ")],
)
def test_times_and_small_fractions_are_no_difference(old: str, new: str) -> None:
    assert difference(TABLE, TABLE.replace(old, new)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("95.3 %", "85.3 %"),
        ("92.8", "82.8"),
        ("ia3", "ia4"),
        ("1/1", "1/2"),
        ("0.2821", "0.3821"),
        ("epoch", " epoch"),
        ("│\n", "│\nmore\n"),
    ],
)
def test_anything_else_in_a_text_is(old: str, new: str) -> None:
    assert old in TABLE
    assert difference(TABLE, TABLE.replace(old, new)) is not None


def test_the_number_of_a_batch_is_no_difference_but_what_was_in_it_is() -> None:
    assert difference("│ no. 1: 5 tasks, lora", "│ no. 4: 5 tasks, lora") is None
    assert difference("│ no. 1: 5 tasks, lora", "│ no. 1: 4 tasks, lora") is not None


def test_the_digest_of_an_adapter_that_the_run_trained_is_its_own() -> None:
    shown, given = "opinions@1: ia3, sha256 1d4a77cc7f6c\n", "opinions@1: ia3, sha256 0da0d41b552d\n"
    assert difference(shown, given) is not None
    assert difference(shown, given, trained=True) is None


def test_what_is_written_is_what_was_given() -> None:
    long = ANSWER | {"outputs": ANSWER["outputs"] * 20}
    lines = written(json.dumps(long, separators=(",", ":")))
    assert json.loads(lines) == long
    assert max(map(len, lines.splitlines())) <= 120
    assert len(lines.splitlines()) > 20
    assert written(" a \n b\n\n") == " a\n b\n"


def test_an_output_is_written_into_its_block() -> None:
    block = Block("page", "console", "$ one \\\n  more\nold 1\n$ two\nsame\n", 3, 8)
    new = rewritten(block, [("old 1\n", "new 2\n"), ("same\n", "same \n")])
    assert new == (block, "$ one \\\n  more\nnew 2\n$ two\nsame\n")
    assert rewritten(block, [("old 1\n", "old 1\n"), ("same\n", "same\n")]) is None


def test_commands_go_on_behind_a_backslash_and_inside_quotes() -> None:
    block = Block("page", "console", "$ a \\\n  b '{\n\"c\"}'\nout\n$ d\n", 0, 5)
    assert block.steps == [("a \\\n  b '{\n\"c\"}'", "out\n"), ("d", "")]
    assert Block("page", "sh", "a \\\n  b\nc\n", 0, 3).steps == [("a \\\n  b", ""), ("c", "")]
    with pytest.raises(ValueError, match="begins with"):
        _ = Block("page", "console", "out\n$ a\n", 0, 2).steps


def test_a_snippet_has_the_output_right_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    snippet, output = Block("page", "python", "print(1)\n", 1, 2), Block("page", "text", "1\n", 5, 6)
    monkeypatch.setattr("tests.docs.handled.blocks", lambda page: (snippet, output))
    assert how(output).value == "output"
    assert output_of(snippet) is output
