"""Who counts as asking for little beside others, by a clock of the test's own."""

from __future__ import annotations

import pytest
from manyhats.core.fair_use import RecentUse


class Clock:
    """Says the time that it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.2  # a little passes between two looks
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_alone_is_never_crowded(clock: Clock) -> None:
    use: RecentUse[str] = RecentUse(clock=clock)
    for _ in range(100):
        use.add("one", 100)
        assert not use.crowded()


def test_equal_ones_are_not_crowded(clock: Clock) -> None:
    use: RecentUse[str] = RecentUse(clock=clock)
    for _ in range(20):
        for name in "abcd":
            use.add(name, 10)
    assert not use.crowded()


def test_a_light_one_is_crowded_as_long_as_it_is_remembered(clock: Clock) -> None:
    use: RecentUse[str] = RecentUse(clock=clock)
    use.add("light", 1)
    for _ in range(10):
        use.add("heavy", 100)
    assert use.crowded()
    clock.now += 25
    use.add("heavy", 100)
    assert use.crowded()
    clock.now += 10
    use.add("heavy", 100)
    assert not use.crowded()
    assert "light" not in use


def test_old_use_fades(clock: Clock) -> None:
    """Who has asked for much before is light where others ask for more now."""
    use: RecentUse[str] = RecentUse(clock=clock)
    use.add("before", 100)
    use.add("now", 100)
    assert not use.crowded()
    clock.now += 20
    use.add("now", 100)
    assert use.crowded()


def test_where_one_must_dominate_many_small_ones_do_not_count(clock: Clock) -> None:
    use: RecentUse[str] = RecentUse(dominated=True, clock=clock)
    for i in range(20):
        use.add(f"t{i}", 1 + i)
    assert not use.crowded()
    use.add("t0", 1000)
    clock.now += 1
    assert use.crowded()


def test_new_use_can_weigh_more_for_ever(clock: Clock) -> None:
    """The scale of what is added is made small again before it leaves what a float holds."""
    use: RecentUse[str] = RecentUse(clock=clock)
    for _ in range(500):
        clock.now += 20
        use.add("a", 1)
        use.add("b", 100)
    assert use.crowded()


def test_few_are_remembered(clock: Clock) -> None:
    use: RecentUse[int] = RecentUse(clock=lambda: 0.0)
    for i in range(5000):
        use.add(i, 1)
    use.crowded()
    assert 0 not in use
    assert 4999 in use
