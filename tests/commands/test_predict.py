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
from typer.testing import CliRunner

from tests.commands.asking import Server, refused, run

ONE_BY_ONE = ["--batch", "2", "--concurrency", "1"]
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
    """Every input's own text as its output; `bad` ones fail."""
    return httpx.Response(200, json={"results": [result(one["inputs"]) for one in asked(request)]})


def asked(request: httpx.Request) -> list[Any]:
    """The questions of a request about lines."""
    assert request.url.path == "/v1/predict"
    return json.loads(request.content)["requests"]


def result(one: Any) -> Any:
    text = one if isinstance(one, str) else one["text"]
    if text == "bad":
        return {"task": "spam", "error": {"message": "bad is bad", "type": "BadRequestError", "code": 400}}
    return ANSWER | {"kind": "own", "outputs": [{"text": text, "finish_reason": "stop"}]}


def inputs(server: Server) -> list[list[Any]]:
    return [[one["inputs"] for one in asked(request)] for request in server.requests]


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
    assert sorted(inputs(server)) == [[" drei"], ["eins", "zwei é"]]
    out, _ = run("predict", "spam", "-f", tmp_path / "texts.txt", "-p", "top_k=2", "--json")
    assert [json.loads(line)["outputs"][0]["text"] for line in out.splitlines()] == ["eins", "zwei é", " drei"]
    assert all(json.loads(line)["sha256"] == "ab" for line in out.splitlines())
    assert asked(server.requests[-1])[0]["parameters"] == {"top_k": 2}


def test_a_line_that_fails_has_its_error_in_its_place(server: Server, tmp_path: Path) -> None:
    server.answer = echo
    (tmp_path / "texts.txt").write_text("a\nbad\nc\n")
    ended = CliRunner().invoke(cli.app, ["predict", "spam", "-f", str(tmp_path / "texts.txt")])
    first, second, third = map(json.loads, ended.stdout.splitlines())
    assert (first["text"], third["text"]) == ("a", "c")
    assert second == {"error": {"message": "bad is bad", "type": "BadRequest"}}
    assert str(ended.exception) == "1 of 3 lines failed; each has its error in its place"


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
    assert inputs(server) == [[{"text": "a", "text_pair": "b"}, "c\nd", {"text": "e"}]]


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
        (["x", "--stream", "--json"], 2, "--stream prints one text of the command line"),
        (["x", "y", "--stream"], 2, "--stream prints one text of the command line"),
        (["--stream"], 2, "--stream prints one text of the command line"),
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
        return httpx.Response(401, json={"error": {"message": "the key is gone"}})

    server.answer = answer
    (tmp_path / "texts").write_text("a\nb\nc\n")
    monkeypatch.setattr("sys.argv", ["manyhats", "predict", "spam", "-f", str(tmp_path / "texts"), *ONE_BY_ONE])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err == "manyhats: after 2 lines: the key is gone\n"


# ---- texts as they come


def written(request: httpx.Request) -> httpx.Response:
    """A stream of two tokens; the task `spam` does not generate, and says so."""
    body = json.loads(request.content)
    if "spam" in request.url.path and body.get("parameters", {}).get("stream"):
        return httpx.Response(400, json={"error": {"message": "spam is of kind classify", "code": 400}})
    if not body.get("parameters", {}).get("stream"):
        return httpx.Response(200, json=ANSWER)
    events: list[Any] = [{"input": 0, "text": text, "tokens": [1]} for text in (" red", " hat\n")]
    whole = ANSWER | {
        "kind": "generate",
        "outputs": [{"text": " red hat\n", "finish_reason": "stop", "tokens": [1, 1]}],
    }
    data = [json.dumps(event) for event in [*events, whole]] + ["[DONE]"]
    content = "".join(f"data: {one}\n\n" for one in data)
    return httpx.Response(200, text=content, headers={"Content-Type": "text/event-stream"})


def test_a_text_is_printed_as_it_comes(server: Server) -> None:
    server.answer = written
    assert run("predict", "poem", "a", "--stream", "-p", "max_new_tokens=2")[0] == " red hat\n\n"
    assert bodies(server) == [{"inputs": "a", "parameters": {"max_new_tokens": 2, "stream": True}}]


def test_where_nobody_looks_the_answer_is_json(server: Server) -> None:
    server.answer = written
    for words in (["a"], ["a", "--no-stream"], ["a", "b"]):
        assert json.loads(run("predict", "poem", *words)[0]) == ANSWER["outputs"]
    assert not any(body.get("parameters") for body in bodies(server))


@pytest.mark.parametrize(
    ("words", "streams"),
    [
        (["poem", "a"], True),
        (["poem", "a", "--no-stream"], False),
        (["poem", "a", "--json"], False),
        (["poem", "a", "b"], False),
        (["poem", "a", "-p", "n=2"], False),
        (["spam", "a"], False),
    ],
)
def test_at_a_terminal_one_text_is_printed_as_it_comes(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    streams: bool,
) -> None:
    server.answer = written
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.argv", ["manyhats", "predict", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert (capsys.readouterr().out == " red hat\n\n") == streams
    assert ("stream" in bodies(server)[-1].get("parameters", {})) == streams


def test_a_task_that_does_not_generate_is_said_where_a_stream_is_demanded(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = written
    assert "spam is of kind classify" in refused(monkeypatch, capsys, "predict", "spam", "a", "--stream")
