"""The command `manyhats predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from manyhats.commands.connection import DEFAULT_URL, AsJson, Key, Name, Url, asked, connected, plain, print_json


def predict(
    task: Name,
    texts: Annotated[list[str], typer.Argument(help="one or more texts")],
    url: Url = DEFAULT_URL,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Asks a task, and prints the outputs as JSON; with --json the whole answer."""
    asked(task)
    with connected(url, key) as client:
        answer = plain(client.predict(task, texts))
    print_json(answer if as_json else answer["outputs"])
