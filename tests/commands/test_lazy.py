"""A command that is loaded when it is asked for is the same to its users."""

from __future__ import annotations

from collections.abc import Callable

import typer
from manyhats.commands.lazy import LazyCommand
from typer.testing import CliRunner


def test_is_loaded_when_it_is_run_or_explains_itself() -> None:
    loaded = []

    def shout(word: str, times: int = 1) -> None:
        """Never shown: the command's help is that of the function that loads it."""
        typer.echo(word.upper() * times)

    def load() -> Callable[..., None]:
        loaded.append(1)
        return shout

    app = typer.Typer()
    app.command("shout", cls=LazyCommand, help="Says it loudly.")(load)
    app.command("whisper")(lambda: typer.echo("hush"))
    runner = CliRunner()
    assert runner.invoke(app, ["whisper"]).output == "hush\n"
    assert "Says it loudly." in runner.invoke(app, ["--help"]).output
    assert not loaded
    assert runner.invoke(app, ["shout", "no", "--times", "2"]).output == "NONO\n"
    shown = runner.invoke(app, ["shout", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "Says it loudly." in shown.output
    assert "--times" in shown.output
    assert runner.invoke(app, ["shout"]).exit_code == 2
