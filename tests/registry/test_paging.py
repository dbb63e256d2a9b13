"""Pages of names, and searches among them."""

from __future__ import annotations

import random

import pytest
from manyhats.errors import InvalidRequest
from manyhats.registry.paging import SortedNames, token_after


def pages(names: SortedNames, limit: int, search: str = "") -> list[str]:
    """All pages, one after the other."""
    seen: list[str] = []
    token: str | None = None
    while True:
        page, token = names.page(limit, token, search)
        assert len(page) <= limit
        seen += page
        if token is None:
            return seen


@pytest.mark.parametrize("search", ["", "1", "A1", "a1", "9", "b", "nowhere", "a\nb", ".-"])
def test_pages_hold_what_a_search_finds_once_and_in_order(search: str) -> None:
    rng = random.Random(7)
    every = sorted({"".join(rng.choices("abAB019.-", k=rng.randint(1, 6))) for _ in range(400)})
    names = SortedNames(rng.sample(every, len(every)))
    expected = [name for name in every if search.lower() in name.lower()]
    for limit in (1, 7, 1000):
        assert pages(names, limit, search) == expected


def test_names_come_and_go() -> None:
    names = SortedNames(["b", "d"])
    assert pages(names, 1, "x") == []
    for name in ("c", "a", "Cx"):
        names.add(name)
    assert pages(names, 2) == list(names) == ["Cx", "a", "b", "c", "d"]
    assert pages(names, 1, "c") == ["Cx", "c"]
    names.discard("b")
    names.discard("not there")
    names.discard("Cx")
    assert names.page(2, token_after("b")) == (["c", "d"], None)
    assert pages(names, 1, "c") == ["c"]
    assert pages(SortedNames(), 5, "c") == pages(SortedNames(), 5) == []


def test_a_search_goes_on_where_a_name_was_taken_away() -> None:
    names = SortedNames(["a1", "a2", "a3", "b"])
    page, token = names.page(2, None, "a")
    names.discard("a2")
    assert (page, names.page(2, token, "A")) == (["a1", "a2"], (["a3"], None))
    with pytest.raises(InvalidRequest, match="page_token"):
        names.page(2, "!", "a")


def test_names_around_one() -> None:
    names = SortedNames("abcdefgh")
    assert names.around("e", 4) == ["c", "d", "e", "f"]
    assert names.around("A", 3) == ["a", "b", "c"]
    assert names.around("z", 3) == ["f", "g", "h"]
    assert names.around("c", 100) == list("abcdefgh")
