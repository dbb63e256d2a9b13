"""What a key is for, and which tasks are there for it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from manyhats.errors import InvalidRequest
from manyhats.registry.names import BASE

# What a key may do: ask and look at tasks; bring adapters; change and delete tasks; see the server's figures.
SCOPES = ("predict", "upload", "admin", "metrics")
ALL_SCOPES = frozenset(SCOPES)
READ = frozenset({"predict", "upload", "admin"})  # any of them is enough to look at tasks

_MAX_PATTERNS = 64
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,128}")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")


def check_scopes(scopes: Sequence[str]) -> None:
    """Raises InvalidRequest for no scopes, or one that there is not."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequest(f"'{scope[:50]}' is no scope; there are {', '.join(SCOPES)}", param="scopes")
    if not scopes:
        raise InvalidRequest(f"a key needs a scope: {', '.join(SCOPES)}", param="scopes")


def check_patterns(patterns: Sequence[str], namespace: str) -> None:
    """Raises InvalidRequest for patterns or a namespace that no task's name could fit."""
    if len(patterns) > _MAX_PATTERNS:
        raise InvalidRequest(f"there are {len(patterns)} patterns of tasks; at most {_MAX_PATTERNS}", param="tasks")
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise InvalidRequest(
                f"'{pattern[:200]}' is no pattern of tasks; write names in which * stands for any letters, ? for one",
                param="tasks",
            )
    if namespace and not _NAMESPACE.fullmatch(namespace):
        raise InvalidRequest(
            f"'{namespace[:200]}' is no namespace; write how the names of its tasks begin, such as team-",
            param="namespace",
        )


def task_pattern(patterns: Iterable[str], namespace: str) -> re.Pattern[str] | None:
    """What the names of the tasks are like that one of `patterns` fits, below `namespace`; None for all tasks.

    Without patterns, all below the namespace. The bare backbone lies in no namespace: a pattern has to fit its name.
    """
    given = tuple(patterns) or (f"{namespace}*",)
    if not namespace:
        return None if "*" in given else re.compile("|".join(map(fnmatch.translate, given)))
    inside = rf"(?={re.escape(namespace)}|{BASE}\Z)"
    return re.compile(f"{inside}(?:{'|'.join(map(fnmatch.translate, given))})")
