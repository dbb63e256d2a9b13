"""What the commands that talk to a server share: its address, a client, names that are checked first, and output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console

from manyhats.errors import ConfigurationError, Conflict, InvalidRequest, ManyhatsError, NotReady, WrongUsage
from manyhats.registry.names import Ref, check_alias, check_name, parse_ref

if TYPE_CHECKING:
    from manyhats_client import Client
    from pydantic import BaseModel

DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT = 300.0  # seconds: a large adapter is checked, and a text is generated
_COMPLETIONS = 1000  # names, which a search may find many of
_COMPLETION_TIMEOUT = 1.0  # seconds that a shell waits for names


def task_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """For a shell that completes a task's name: those of the server, where it answers at once."""
    try:
        with connected(
            ctx.params.get("url") or DEFAULT_URL, ctx.params.get("key") or "", _COMPLETION_TIMEOUT
        ) as client:
            found = (task.name for task in client.tasks(_COMPLETIONS, search=incomplete))
            return [name for name in islice(found, _COMPLETIONS) if name.startswith(incomplete)]
    except ManyhatsError:
        return []


Url = Annotated[str, typer.Option("--url", envvar="MANYHATS_URL", help="address of the server")]
Key = Annotated[str, typer.Option("--key", envvar="MANYHATS_KEY", help="API key", show_default=False)]
Name = Annotated[str, typer.Argument(help="the task's name", autocompletion=task_names)]
AsJson = Annotated[bool, typer.Option("--json", help="print the server's answer as JSON")]


@contextmanager
def connected(url: str, key: str, timeout: float = _TIMEOUT) -> Iterator[Client]:
    """A client of the server at `url`. What it raises becomes an error of one line.

    Raises WrongUsage for an address that is none, NotReady where nobody answers, ManyhatsError for what the server
    refuses, and ConfigurationError where the client is not installed.
    """
    try:
        import manyhats_client as mc
    except ImportError:
        raise ConfigurationError(
            "this command needs manyhats-client: pip install ./clients/python in a clone of Manyhats"
        ) from None
    try:
        client = mc.Client(url, api_key=key or None, timeout=timeout, retries=0)
    except (ValueError, httpx.InvalidURL) as error:
        raise WrongUsage(f"--url: {error}") from None
    try:
        with client:
            yield client
    except (mc.ConnectionFailed, mc.Timeout) as error:
        raise NotReady(_line(f"no answer from {url}: {error}")) from None
    except mc.APIError as error:
        raise ManyhatsError(_line(error.message)) from None
    except mc.ManyhatsError as error:
        raise ManyhatsError(_line(str(error))) from None


def _line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def _words() -> Iterator[None]:
    try:
        yield
    except (InvalidRequest, Conflict) as error:
        raise WrongUsage(error.message) from None


def own_name(task: str) -> None:
    """Raises WrongUsage for a text that cannot be the name of a task that changes."""
    with _words():
        check_name(task, write=True)


def own_alias(alias: str) -> None:
    """Raises WrongUsage for a text that is no alias."""
    with _words():
        check_alias(alias)


def asked(ref: str) -> Ref:
    """What `task`, `task@alias` or `task@3` means. Raises WrongUsage."""
    with _words():
        return parse_ref(ref)


def named_values(pairs: list[str], option: str) -> dict[str, Any]:
    """`NAME=VALUE` texts as a mapping; a value is read as JSON where it is some, else as a text.

    Raises WrongUsage for anything else; `option` is what the message calls them.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise WrongUsage(f"{option} takes NAME=VALUE, not '{pair[:100]}'")
        try:
            values[name.strip()] = json.loads(value)
        except ValueError:
            values[name.strip()] = value
    return values


def plain(answer: BaseModel) -> Any:
    """An answer as the server sent it."""
    return answer.model_dump(mode="json", exclude_unset=True)


def print_json(value: Any) -> None:
    """JSON that people can read, in colours where a terminal shows it."""
    Console().print_json(data=value)
