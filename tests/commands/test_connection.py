"""What the commands that talk to a server share."""

from __future__ import annotations

import json
import sys
from typing import Any

import httpx
import pytest
from manyhats import cli
from manyhats.commands.connection import named_values
from manyhats.errors import WrongUsage
from typer.testing import CliRunner

from tests.commands.asking import Server, refused, run
from tests.commands.test_predict import ANSWER


def test_the_address_and_the_key_may_come_from_the_environment(server: Server) -> None:
    server.answers(ANSWER)
    run("predict", "spam", "x", MANYHATS_URL="http://elsewhere:1/prefix", MANYHATS_KEY="schlüssel")
    (request,) = server.requests
    assert str(request.url) == "http://elsewhere:1/prefix/v1/tasks/spam/predict"
    assert dict(request.headers.raw)[b"Authorization"] == "Bearer schlüssel".encode()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, {"error": {"message": "The task `x` does not exist.", "code": 404}}, "The task `x` does not exist.\n"),
        (502, {"detail": "bad gateway"}, "answered 502 Bad Gateway"),
        (500, {"error": "broken"}, "answered 500 Internal Server Error"),
        (200, ["something", "else"], "is it a Manyhats server?"),
        (302, {}, "answered 302 Found"),
    ],
)
def test_what_a_server_refuses_is_said_in_one_line(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: Any,
    message: str,
) -> None:
    server.answers(body, status)
    assert message in refused(monkeypatch, capsys, "show", "x")


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_json_is_said_in_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    server.answer = lambda request: httpx.Response(status, text="<html>\nhello\n</html>")
    assert f"answered {status}" in refused(monkeypatch, capsys, "show", "x")


@pytest.mark.parametrize("url", ["nonsense", "http://[::1", "http://h:1:2"])
def test_an_address_that_is_none_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    assert "--url: " in refused(monkeypatch, capsys, "tasks", "--url", url, code=2)


def test_without_the_client_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "manyhats_client", None)
    assert "this command needs manyhats-client" in refused(monkeypatch, capsys, "tasks")


def test_values_are_json_where_they_are_some() -> None:
    pairs = ["a=1", "b=[1, 2]", "c=word", 'd="1"', "e=x=y", "f="]
    assert named_values(pairs, "x") == {"a": 1, "b": [1, 2], "c": "word", "d": "1", "e": "x=y", "f": ""}
    for pair in ("a", "=1", " =1"):
        with pytest.raises(WrongUsage, match="--parameter takes NAME=VALUE"):
            named_values([pair], "--parameter")


def test_json_is_as_the_server_wrote_it(server: Server) -> None:
    body = {"name": "x", "aliases": {}, "labels": None, "unheard_of": {"a": [1]}}
    server.answers(body)
    assert json.loads(run("show", "x")[0]) == body


def completed(words: str) -> list[str]:
    """What bash is told to complete the last word of a line with."""
    environment = {"_MANYHATS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = CliRunner().invoke(cli.app, [], env=environment, prog_name="manyhats")
    return result.stdout.split()


def test_a_shell_completes_the_names_of_tasks(server: Server) -> None:
    server.answers({"data": [{"name": "spam"}, {"name": "sports"}, {"name": "topic"}]})
    assert completed("manyhats predict sp") == ["spam", "sports"]
    assert server.requests[-1].url.params["search"] == "sp"
    assert completed("manyhats rollback t") == ["topic"]
    server.answers({"error": {"message": "no key", "code": 401}}, 401)
    assert completed("manyhats show s") == []
