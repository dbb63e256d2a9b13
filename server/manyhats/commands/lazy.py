"""Commands that are imported only when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command


class LazyCommand(TyperCommand):
    """A command whose options come from modules that take long to import.

    The function that it is made of has no parameters, and returns the command's own function, from whose signature the
    options are read when the command is run, or its help is shown.
    """

    @cached_property
    def _loaded(self) -> Any:
        assert self._load is not None
        app = typer.Typer(add_completion=False)
        app.command()(self._load())
        return get_command(app)

    @property
    def params(self) -> list[Any]:
        """The command's options."""
        options: list[Any] = self._loaded.params
        return options

    @params.setter
    def params(self, value: list[Any]) -> None:
        """Those of the function that loads it, which are none."""

    @property
    def callback(self) -> Callable[..., Any] | None:
        """What runs the command."""
        run: Callable[..., Any] | None = self._loaded.callback
        return run

    @callback.setter
    def callback(self, value: Callable[..., Any] | None) -> None:
        self._load = value


class LazyFigures(LazyCommand):
    """One whose `--json FILE` may stand alone, as other commands' `--json` does: then it is `--json -`, stdout."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words, with what was left out of them."""
        whole = []
        for i, word in enumerate(args):
            whole.append(word)
            if word == "--json" and (i + 1 == len(args) or (args[i + 1] != "-" and args[i + 1].startswith("-"))):
                whole.append("-")
        return super().parse_args(ctx, whole)
