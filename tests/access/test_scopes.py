"""Which tasks a key sees."""

from __future__ import annotations

import pytest
from manyhats.access.scopes import task_pattern

NAMES = ("team-a", "team-b", "teams", "other", "base", "xteam-a")


@pytest.mark.parametrize(
    ("patterns", "namespace", "seen"),
    [
        ((), "", set(NAMES)),
        (("*",), "", set(NAMES)),
        (("team-*",), "", {"team-a", "team-b"}),
        (("team-?", "base"), "", {"team-a", "team-b", "base"}),
        (("team",), "", set()),
        ((), "team-", {"team-a", "team-b"}),
        (("*",), "team-", {"team-a", "team-b", "base"}),
        (("*-a", "base"), "team-", {"team-a", "base"}),
        (("*-a",), "team-", {"team-a"}),
        (("other",), "team-", set()),
        (("",), "", set()),
    ],
)
def test_patterns_and_namespaces(patterns: tuple[str, ...], namespace: str, seen: set[str]) -> None:
    pattern = task_pattern(patterns, namespace)
    assert {name for name in NAMES if pattern is None or pattern.fullmatch(name)} == seen
    assert (pattern is None) == (not namespace and seen == set(NAMES))


def test_signs_of_regular_expressions_mean_themselves() -> None:
    pattern = task_pattern(["a.b*"], "a.")
    assert pattern is not None
    assert pattern.fullmatch("a.bc")
    assert not pattern.fullmatch("axbc")
