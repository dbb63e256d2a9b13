"""Which requests are begun at once, and in what order others follow. No request runs here: turns alone."""

from __future__ import annotations

from collections import Counter

import pytest
from manyhats.api.turns import Turn, Turns

WINDOW = 8


now = [0.0]


@pytest.fixture
def turns() -> Turns:
    now[0] = 0.0
    return Turns(lambda: WINDOW, lambda: now[0])


def asked(turns: Turns, count: int, client: str = "much", path: str = "/a", cost: int = 1) -> list[Turn]:
    return [turns.ask(client, path, cost) for _ in range(count)]


def crowd(turns: Turns) -> None:
    """Somebody who asks for little has been there, beside one who asks for much."""
    for turn in [*asked(turns, 1, "little"), *asked(turns, 50)]:
        turns.end(turn)
    now[0] += 1


def begun(several: list[Turn]) -> int:
    return sum(turn.begun and not turn.ended for turn in several)


def test_where_nobody_is_crowded_all_begin_at_once(turns: Turns) -> None:
    several = asked(turns, 100)
    assert begun(several) == 100
    assert not turns.waiting


def test_where_somebody_is_one_client_has_a_window(turns: Turns) -> None:
    crowd(turns)
    several = asked(turns, 100)
    assert begun(several) == WINDOW
    assert turns.waiting == 100 - WINDOW
    little = asked(turns, 1, "little")
    assert begun(little) == 1
    for done, turn in enumerate(several, 1):
        assert turn.begun  # in their order
        turns.end(turn)
        assert begun(several) == min(WINDOW, 100 - done)
    assert not turns.waiting


def test_large_requests_count_as_many(turns: Turns) -> None:
    crowd(turns)
    several = asked(turns, 5, cost=100)
    assert begun(several) == 1
    turns.end(several[0])
    assert [turn.begun for turn in several] == [True, True, False, False, False]


def test_paths_of_one_client_take_turns(turns: Turns) -> None:
    crowd(turns)
    first = asked(turns, WINDOW)
    many, few = asked(turns, 20, path="/a"), asked(turns, 4, path="/b")
    assert begun(few) == 1  # there was none to that path
    order: list[str] = []
    for turn in [*many, *few]:
        turn.begin = lambda path=turn.path: order.append(path)
    for turn in first:
        turns.end(turn)
    assert Counter(order[:6]) == {"/a": 3, "/b": 3}


def test_a_path_that_fills_a_client_leaves_half_of_the_window(turns: Turns) -> None:
    for turn in [*asked(turns, 1, path="/little"), *asked(turns, 50, path="/much")]:
        turns.end(turn)
    now[0] += 1
    much = asked(turns, 100, path="/much")
    assert begun(much) == WINDOW // 2
    assert begun(asked(turns, 3, path="/little")) == 3


def test_what_is_given_up_leaves_its_place(turns: Turns) -> None:
    crowd(turns)
    several = asked(turns, WINDOW + 3)
    turns.end(several[WINDOW])
    turns.end(several[WINDOW])  # once more does nothing
    assert turns.waiting == 2
    turns.end(several[0])
    assert [turn.begun for turn in several[WINDOW:]] == [False, True, False]
    for turn in several:
        turns.end(turn)
    assert not turns.waiting
    assert not turns._clients


def test_who_only_looks_does_not_crowd_anybody(turns: Turns) -> None:
    """A probe of readiness must not halve what a client gets."""
    for _ in range(5):
        turns.end(turns.ask("probe", "/readyz", 1, counts=False))
    now[0] += 1
    assert begun(asked(turns, 100)) == 100


def test_many_paths_of_one_client_are_no_way_around(turns: Turns) -> None:
    crowd(turns)
    several = [turns.ask("much", f"/{i}", 1) for i in range(1000)]
    assert begun(several) == WINDOW


def test_clients_are_forgotten(turns: Turns) -> None:
    for i in range(5000):
        turns.end(turns.ask(f"client {i}", "/a", 1))
    assert len(turns._use_of_paths) < 1100
