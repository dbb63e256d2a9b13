"""Names of tasks and aliases."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manyhats.errors import Conflict, InvalidRequest
from manyhats.registry.names import Ref, check_alias, check_name, parse_ref

PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
NAMES = st.from_regex(PATTERN)
ALIASES = NAMES.filter(lambda name: not name.isdigit())


@given(st.one_of(st.text(max_size=200), NAMES))
def test_a_name_is_what_the_published_pattern_matches(name: str) -> None:
    if PATTERN.match(name):
        check_name(name)
    else:
        with pytest.raises(InvalidRequest, match="letters, digits"):
            check_name(name)


def test_base_can_be_read_but_not_written() -> None:
    check_name("base")
    with pytest.raises(Conflict, match="base"):
        check_name("base", write=True)


@pytest.mark.parametrize("alias", ["", "3", "007", "a b", "-a", "a" * 129, "stable\n"])
def test_what_is_no_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidRequest):
        check_alias(alias)


@given(NAMES)
def test_a_plain_name_means_stable(name: str) -> None:
    assert parse_ref(name) == Ref(name, "stable", None)


@given(NAMES, ALIASES)
def test_an_alias_is_read(name: str, alias: str) -> None:
    assert parse_ref(f"{name}@{alias}") == Ref(name, alias, None)


@given(NAMES, st.integers(0, 10**9 - 1))
def test_a_version_is_read(name: str, number: int) -> None:
    assert parse_ref(f"{name}@{number}") == Ref(name, None, number)


@given(st.text(st.sampled_from("ab@19.²٣\0/ \n"), max_size=20))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        ref = parse_ref(text)
    except InvalidRequest:
        return
    check_name(ref.task)
    assert (ref.alias is None) != (ref.number is None)


@pytest.mark.parametrize("ref", ["", "@", "a@", "@3", "a@b@c", "a@-1", "a@1.5/..", "a@٣", "a@" + "9" * 10])
def test_malformed_references_are_refused(ref: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_ref(ref)
