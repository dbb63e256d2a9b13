"""`manyhats predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from manyhats import cli
from manyhats.commands.predict import read_inputs
from manyhats.errors import InvalidRequest

from tests.commands.asking import Server, refused, run

ANSWER = {
    "id": "pred-1",
    "task": "spam",
    "version": 1,
    "sha256": "ab",
    "kind": "classify",
    "outputs": [
        {"label": "ham", "score": 0.5, "scores": {"ham": 0.5, "spam": 0.5}},
        {"label": "spam", "score": 1.0, "scores": {"ham": 0.0, "spam": 1.0}},
    ],
}


def bodies(server: Server) -> list[Any]:
    return [json.loads(request.content) for request in server.requests]


def echo(request: httpx.Request) -> httpx.Response:
    """Every input's own text as its output."""
    inputs = json.loads(request.content)["inputs"]
    outputs = [{"text": one if isinstance(one, str) else one["text"], "finish_reason": "stop"} for one in inputs]
    return httpx.Response(200, json=ANSWER | {"kind": "own", "outputs": outputs})


def test_the_outputs_or_the_whole_answer_are_printed(server: Server) -> None:
    server.answers(ANSWER)
    assert json.loads(run("predict", "spam", "one", "two")[0]) == ANSWER["outputs"]
    assert json.loads(run("predict", "spam", "one", "two", "--json")[0]) == ANSWER
    assert bodies(server) == [{"inputs": ["one", "two"]}] * 2


def test_parameters_go_along(server: Server) -> None:
    server.answers(ANSWER)
    run("predict", "spam", "one", "-p", "top_k=2", "--parameter", 'stop=["a"]', "-p", "pooling=mean")
    assert bodies(server)[0]["parameters"] == {"top_k": 2, "stop": ["a"], "pooling": "mean"}


def test_lines_are_asked_in_batches_and_answered_line_by_line(server: Server, tmp_path: Path) -> None:
    server.answer = echo
    (tmp_path / "texts.txt").write_text("eins\nzwei é\r\n drei\n", encoding="utf-8")
    out, err = run("predict", "spam", "--file", tmp_path / "texts.txt", "--batch", "2")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["eins", "zwei é", " drei"]
    assert err == ""
    assert [body["inputs"] for body in bodies(server)] == [["eins", "zwei é"], [" drei"]]
    out, _ = run("predict", "spam", "-f", tmp_path / "texts.txt", "--batch", "2", "--json")
    assert [len(json.loads(line)["outputs"]) for line in out.splitlines()] == [2, 1]


@pytest.mark.parametrize("words", [[], ["--file", "-"]])
def test_lines_may_be_piped_in(server: Server, words: list[str]) -> None:
    server.answer = echo
    out, _ = run("predict", "spam", *words, typed="eins\nzwei é".encode())
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["eins", "zwei é"]


@pytest.mark.parametrize("by_name", [True, False])
def test_pairs_come_as_json_lines(server: Server, tmp_path: Path, by_name: bool) -> None:
    server.answer = echo
    file = tmp_path / ("texts.jsonl" if by_name else "texts")
    file.write_text('{"text": "a", "text_pair": "b", "other": 1}\n"c\\nd"\n{"text": "e", "text_pair": null}\n')
    run("predict", "spam", "-f", file, *([] if by_name else ["--jsonl"]))
    assert bodies(server)[0]["inputs"] == [{"text": "a", "text_pair": "b"}, "c\nd", {"text": "e"}]


@pytest.mark.parametrize(
    ("line", "as_json", "message"),
    [
        (" \n", False, "line 2 is empty"),
        ("{\n", True, "line 2 is not valid JSON"),
        ("[1]\n", True, "line 2 is neither a text nor an object"),
        ('{"text": 1}\n', True, "line 2 is neither"),
        ('{"text_pair": "x"}\n', True, "line 2 is neither"),
    ],
)
def test_a_line_that_is_none_is_named(line: str, as_json: bool, message: str) -> None:
    inputs = read_inputs(['"one"\n', line], as_json)
    next(inputs)
    with pytest.raises(InvalidRequest, match=message):
        next(inputs)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["x", "-p", "stream=true"], 2, "--parameter stream is not supported here"),
        (["x", "-p", "stream"], 2, "--parameter takes NAME=VALUE"),
        (["x", "--file", "-"], 2, "not both"),
        (["x", "--jsonl"], 2, "not both"),
        (["--file", "/nowhere/at/all"], 2, "is no file"),
        (["--file", "{empty}"], 1, "there is no text: no line came"),
        (["--file", "{latin}"], 1, "the lines are not UTF-8"),
    ],
)
def test_what_cannot_be_asked_is_said(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    files = {"empty": tmp_path / "empty", "latin": tmp_path / "latin"}
    assert message in refused(monkeypatch, capsys, "predict", "spam", *(w.format_map(files) for w in words), code=code)
    assert server.requests == []


def test_at_a_terminal_a_text_is_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert "there is no text: give some" in refused(monkeypatch, capsys, "predict", "spam", code=2)


def test_what_was_answered_before_a_failure_is_counted(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if len(server.requests) == 1:
            return echo(request)
        return httpx.Response(429, json={"error": {"message": "the queue is full"}})

    server.answer = answer
    (tmp_path / "texts").write_text("a\nb\nc\n")
    monkeypatch.setattr("sys.argv", ["manyhats", "predict", "spam", "-f", str(tmp_path / "texts"), "--batch", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err == "manyhats: after 2 lines: the queue is full\n"
