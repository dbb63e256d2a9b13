"""Sides are measured in turn."""

import pytest
from manyhats.bench.timing import Times, alternate


def test_sides_alternate_and_the_first_rounds_do_not_count() -> None:
    order: list[str] = []
    clock = iter(range(100))

    def timer(run: object) -> float:
        run()  # type: ignore[operator]
        return float(next(clock))

    found = alternate({name: lambda name=name: order.append(name) for name in "ab"}, 3, warm_up=1, timer=timer)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert found == {"a": Times((2.0, 5.0, 6.0)), "b": Times((3.0, 4.0, 7.0))}


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_a_quantile_is_one_of_the_times(share: float, expected: float) -> None:
    assert Times((4.0, 1.0, 3.0, 2.0)).quantile(share) == expected


def test_the_median() -> None:
    assert Times((4.0, 1.0, 2.0)).median == 2.0
