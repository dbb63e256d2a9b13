"""The command line: exit codes, and one line that says why."""

from __future__ import annotations

import sys

import pytest
from manyhats import cli
from manyhats.settings import Settings
from typer.testing import CliRunner


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["manyhats", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_every_setting_is_an_option_of_serve() -> None:
    result = CliRunner().invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in result.output


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tasks", "--url", "http://127.0.0.1:9"], 1, "no answer from http://127.0.0.1:9"),
        (["convert", "/nowhere/at/all", "out"], 1, "is no folder"),
        (["nonsense"], 2, "No such command"),
        (["push"], 2, "Missing argument"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert run(monkeypatch, *words) == code
    assert message in capsys.readouterr().err
