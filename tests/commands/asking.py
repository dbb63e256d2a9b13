"""A server that only writes down what it is asked, for the commands that talk to one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from manyhats import cli
from typer.testing import CliRunner

Answer = Callable[[httpx.Request], httpx.Response]


class Server:
    """Gives the answers that it was made with, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Answer = lambda request: httpx.Response(200, json={})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return self.answer(request)

    def answers(self, body: Any, status: int = 200) -> None:
        """What it answers from now on."""
        self.answer = lambda request: httpx.Response(status, json=body)


def run(*words: str | Path, typed: str | bytes | None = None, **environment: str) -> tuple[str, str]:
    """What a command writes to stdout and stderr, `typed` on its stdin; it must end well."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], input=typed, env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 1
) -> str:
    """The one line that a command fails with."""
    monkeypatch.setattr(sys, "argv", ["manyhats", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("manyhats: ")
    assert said.err.count("\n") == 1
    return said.err
