"""How long a pass waits for the clients that the last one answered."""

from __future__ import annotations

import threading

import pytest
from manyhats.backbone import Backbone
from manyhats.core.report import BatchReport
from manyhats.engine.batch_formation import BatchFormation, PassCost
from manyhats.methods.bound_adapter import BARE

from tests import tiny
from tests.engine.running import Make
from tests.engines import one_pass
from tests.waiting import PATIENCE


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def formation(clock: Clock) -> BatchFormation:
    """Passes of 10 ms and 1 ms a token."""
    made = BatchFormation(1000, 0.5, clock)
    for tokens in (10, 20, 40, 10, 80):
        made.cost.add(tokens, 0.01 + 0.001 * tokens)
    return made


def test_the_cost_of_a_pass_is_a_line(formation: BatchFormation) -> None:
    assert formation.cost.seconds(160) == pytest.approx(0.17)
    assert formation.cost.seconds(0) == pytest.approx(0.01)


def test_a_cost_without_different_passes_is_in_proportion() -> None:
    cost = PassCost()
    assert cost.seconds(10) == 0
    for _ in range(5):
        cost.add(20, 0.1)
    assert cost.seconds(40) == pytest.approx(0.2)


def test_the_cost_follows_what_changes() -> None:
    cost = PassCost()
    for seconds in (1.0, 0.001):
        for i in range(1000):
            cost.add(10 + i % 7, seconds * (10 + i % 7))
    assert cost.seconds(100) == pytest.approx(0.1, rel=0.1)


def test_most_of_those_that_were_answered_are_waited_for(formation: BatchFormation, clock: Clock) -> None:
    formation.passed(32, 320, 5)
    wanted = formation.wait(6)
    assert wanted is not None
    assert wanted.sequences == 5 + 28
    assert wanted.deadline == pytest.approx(clock.now + (0.01 + 0.33) / 2)
    assert formation.wait(6) is None, "once for each pass"


def test_no_wait_for_one_client_nor_for_a_full_batch_nor_later(formation: BatchFormation, clock: Clock) -> None:
    assert formation.wait(3) is None, "nothing was answered"
    formation.passed(1, 10, 0)
    assert formation.wait(1) is None
    formation.passed(20, 200, 90)
    assert formation.wait(100) is None, "100 of 10 tokens fill the budget"
    formation.passed(20, 200, 0)
    clock.now += 1
    assert formation.wait(1) is None
    formation.passed(0, 200, 0)
    assert formation.wait(1) is None


def test_there_is_no_wait_where_none_may_be(clock: Clock) -> None:
    made = BatchFormation(1000, 0, clock)
    made.cost.add(10, 0.1)
    made.passed(32, 320, 5)
    assert made.wait(6) is None


def test_waits_in_vain_become_rare(formation: BatchFormation) -> None:
    waits = []
    for i in range(2000):
        formation.passed(8, 80, 0)
        if (wanted := formation.wait(1)) is not None:
            waits.append(i)
            formation.waited(wanted, 2)
    assert waits[:4] == [0, 3, 8, 17]
    assert len(waits) < 16
    while (wanted := formation.wait(1)) is None:
        formation.passed(8, 80, 0)
    formation.waited(wanted, wanted.sequences)
    formation.passed(8, 80, 0)
    assert formation.wait(1) is not None, "one that reached its number makes up for them"


def steady_cost() -> PassCost:
    """Of passes that cost 4 ms and 1 ms for ten tokens."""
    cost = PassCost()
    for i in range(200):
        tokens = 10 * (1 + i % 8)
        cost.add(tokens, 0.004 + tokens / 1e4, tokens // 10)
    return cost


def test_a_pass_that_was_held_up_changes_little() -> None:
    cost = steady_cost()
    before = cost.shared_pass()[0]
    for _ in range(5):
        cost.add(10, 5.0)
    assert cost.seconds(10) < 0.02
    assert cost.shared_pass()[0] < 4 * before


def test_one_with_many_more_tokens_counts_whole() -> None:
    cost = steady_cost()
    for _ in range(20):
        cost.add(2000, 2.0, 200)
    assert cost.seconds(2000) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("slope", [0.0, -1e-5])
def test_where_more_tokens_seem_to_take_no_longer_passes_grow_step_by_step(slope: float) -> None:
    cost = PassCost()
    for i in range(200):
        tokens = 10 * (1 + i % 4)
        cost.add(tokens, 0.01 + slope * tokens, tokens // 10)
    assert cost.shared_pass()[0] == pytest.approx(4 * 25, rel=0.05)
    for _ in range(200):
        cost.add(100, 0.01, 10)
    assert cost.shared_pass()[0] == pytest.approx(400, rel=0.2)


def test_those_that_come_back_share_the_next_pass(bert: Backbone, engine: Make) -> None:
    """Four clients, each of which asks again when the others have been answered too."""
    one = engine(start=False)
    one._formation.cost.add(1, PATIENCE)  # so that no wait ends by its time
    sizes: list[int] = []
    answered = threading.Barrier(5)

    def report(batch: BatchReport) -> None:
        sizes.append(batch.sequences)

    one.runner.on_batch = report
    first = [one_pass(bert, BARE, tiny.texts([5])) for _ in range(4)]
    for request in first:
        request.future.add_done_callback(lambda _: threading.Thread(target=answered.wait, daemon=True).start())
    one.submit(first)
    one.start()
    answered.wait(PATIENCE)
    second = [one_pass(bert, BARE, tiny.texts([5])) for _ in range(4)]
    for request in second:  # one by one
        one.submit([request])
    for request in second:
        request.future.result(PATIENCE)
    one.stop(PATIENCE)
    assert sizes == [4, 4]
