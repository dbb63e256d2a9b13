"""Names of tasks and aliases, and how a request names one: `task`, `task@alias`, `task@3`."""

from __future__ import annotations

import re
from typing import NamedTuple

from manyhats.errors import Conflict, InvalidRequest

BASE = "base"  # the bare backbone
STABLE = "stable"  # what a plain task name means

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Ref(NamedTuple):
    """Exactly one of `alias` and `number` is set."""

    task: str
    alias: str | None
    number: int | None


def is_name(name: str) -> bool:
    """Whether a text can be a task's name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str, *, write: bool = False) -> None:
    """Raises InvalidRequest for a text that is no name, and Conflict for writing to `base`."""
    if not is_name(name):
        raise InvalidRequest(
            f"'{name[:200]}' is no task name; names are 1 to 128 letters, digits, '.', '_' and '-', "
            "and begin with a letter or digit",
            param="task",
        )
    if write:
        check_not_base(name)


def check_not_base(name: str) -> None:
    """Raises Conflict for `base`, to which nothing can be written."""
    if name == BASE:
        raise Conflict("`base` is the bare backbone; it cannot be changed", param="task")


def check_alias(alias: str) -> None:
    """Raises InvalidRequest for a text that is no alias. An alias of digits alone would read as a version."""
    if not is_name(alias) or alias.isdigit():
        raise InvalidRequest(
            f"'{alias[:200]}' is no alias; aliases are written like task names, and not of digits alone", param="alias"
        )


def parse_ref(ref: str) -> Ref:
    """What a request names. Raises InvalidRequest."""
    task, at, rest = ref.partition("@")
    check_name(task)
    if not at:
        return Ref(task, STABLE, None)
    if rest.isascii() and rest.isdigit():
        if len(rest) > 9:
            raise InvalidRequest(f"'{rest[:50]}' is no version number", param="task")
        return Ref(task, None, int(rest))
    check_alias(rest)
    return Ref(task, rest, None)
