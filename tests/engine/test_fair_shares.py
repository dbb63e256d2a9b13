"""Fairness counted in tokens: weights, newcomers, short passes for who asks for little, and deadlines by a clock."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from manyhats.backbone import Backbone
from manyhats.core.sequence import Request
from manyhats.engine.fair_shares import VirtualTime
from manyhats.engine.scheduler import Scheduler

from tests.engine.test_scheduler import Model, drain, generation, request, scheduled_in


def weighted(task: str, lengths: list[int], tenant: str, weight: float = 1.0, arrival_time: float = 0.0) -> Request:
    one = request(task, lengths, arrival_time, tenant=tenant)
    one.weight = weight
    return one


def scheduler_of(*several: Request, budget: int, clock: Any = None) -> Scheduler:
    options = {} if clock is None else {"clock": clock}
    scheduler = Scheduler(None, max_num_batched_tokens=budget, max_num_seqs=1, **options)
    for one in several:
        scheduler.add(one)
    return scheduler


def granted(scheduler: Scheduler, passes: int) -> Counter[str]:
    """Tokens that each tenant's sequences got in so many passes."""
    tokens: Counter[str] = Counter()
    for _ in range(passes):
        for sequence in scheduled_in(scheduler.schedule()):
            tokens[sequence.request.tenant] += sequence.length
    return tokens


@pytest.mark.parametrize(("weights", "expected"), [((1, 1), 1.0), ((3, 1), 3.0), ((1, 4), 0.25)])
@pytest.mark.parametrize("length", [1, 7, 40, 100])
def test_tokens_are_shared_by_weight(weights: tuple[float, float], expected: float, length: int) -> None:
    """Also where a sequence does not fit into a share: then over several passes."""
    scheduler = scheduler_of(
        weighted("t", [length] * 6000, "a", weights[0]), weighted("t", [length] * 6000, "b", weights[1]), budget=120
    )
    tokens = granted(scheduler, 50 if length < 40 else 200)
    assert tokens["a"] / tokens["b"] == pytest.approx(expected, rel=0.12)


def test_long_and_short_sequences_count_by_their_tokens() -> None:
    scheduler = scheduler_of(weighted("t", [90] * 500, "long"), weighted("t", [10] * 5000, "short"), budget=100)
    tokens = granted(scheduler, 100)
    assert tokens["long"] / tokens["short"] == pytest.approx(1, rel=0.12)


def test_a_long_sequence_of_a_quiet_task_goes_before_the_rest_of_a_flood() -> None:
    """It does not fit into the task's share, and is not the oldest."""
    scheduler = scheduler_of(*(request(f"flood{i}", [10] * 500) for i in range(9)), budget=100)
    for _ in range(5):
        scheduler.schedule()
    late = request("quiet", [80], arrival_time=1)
    scheduler.add(late)
    scheduler.schedule()  # it has as much as the least of the others: then it has least
    assert late.sequences[0] in scheduled_in(scheduler.schedule())


def test_who_stayed_away_saved_nothing_up() -> None:
    scheduler = scheduler_of(weighted("t", [10] * 5000, "there"), budget=100)
    granted(scheduler, 100)
    scheduler.add(weighted("t", [10] * 5000, "newcomer"))
    tokens = granted(scheduler, 20)
    assert tokens["there"] / tokens["newcomer"] == pytest.approx(1, rel=0.12)


def test_who_left_with_more_than_the_others_does_not_begin_anew() -> None:
    time: VirtualTime[str] = VirtualTime()
    time.present("ab")
    time.charge("a", 100)
    time.present("b")
    time.charge("b", 10)
    time.present("ab")
    assert (time["a"], time["b"]) == (100, 10)
    time.present("a")
    time.present("ac")
    assert time["c"] == 100
    time.present("")
    time.present("b")
    assert time["b"] == 0


def test_a_client_with_many_connections_is_one() -> None:
    """Requests by the hundred do not move another's single one back."""
    flood = [weighted("t", [10], "flood", arrival_time=i) for i in range(500)]
    scheduler = scheduler_of(*flood, budget=100)
    granted(scheduler, 3)
    scheduler.add(weighted("t", [10], "other", arrival_time=600))
    assert granted(scheduler, 1)["other"] == 10


def test_passes_are_short_while_somebody_light_is_there() -> None:
    now = [0.0]
    scheduler = scheduler_of(weighted("t", [10] * 9000, "much"), budget=1000, clock=lambda: now[0])
    scheduler.shared_tokens = lambda: 70.0
    assert granted(scheduler, 1)["much"] == 1000
    scheduler.add(weighted("t", [10], "little"))
    granted(scheduler, 1)
    now[0] = 1.0
    assert granted(scheduler, 1)["much"] == 70
    now[0] = 100.0  # it was not seen for long
    granted(scheduler, 1)
    now[0] = 101.0
    assert granted(scheduler, 1)["much"] == 1000


def served(scheduler: Scheduler, passes: int) -> list[set[str]]:
    """The tenants of each pass."""
    return [{one.request.tenant for one in scheduled_in(scheduler.schedule())} for _ in range(passes)]


def test_who_asks_for_little_has_a_pass_alone_and_every_second_is_for_all() -> None:
    now = [0.0]
    scheduler = scheduler_of(weighted("t", [10] * 9000, "much"), budget=1000, clock=lambda: now[0])
    scheduler.shared_tokens = lambda: 70.0
    scheduler.add(weighted("t", [10], "little"))
    granted(scheduler, 2)
    now[0] = 1.0
    for _ in range(3):
        scheduler.add(weighted("t", [10] * 2, "little"))
        assert served(scheduler, 2) == [{"little"}, {"much"}]
    for _ in range(3):  # it comes back before the next pass: then that is shared
        scheduler.add(weighted("t", [10] * 2, "little"))
        assert served(scheduler, 1) == [{"little"}]
        scheduler.add(weighted("t", [10] * 2, "little"))
        assert served(scheduler, 1) == [{"little", "much"}]


def test_what_fits_into_a_short_pass_together_runs_together() -> None:
    now = [0.0]
    scheduler = scheduler_of(weighted("t", [10] * 100, "much"), budget=1000, clock=lambda: now[0])
    scheduler.shared_tokens = lambda: 70.0
    granted(scheduler, 1)
    scheduler.add(weighted("t", [10], "little"))
    granted(scheduler, 1)
    now[0] = 1.0
    for _ in range(3):
        scheduler.add(weighted("t", [10] * 2, "little"))
        scheduler.add(weighted("t", [10] * 5, "much"))
        assert served(scheduler, 1) == [{"little", "much"}]


def test_a_task_of_little_among_one_tenants_has_a_pass_alone() -> None:
    now = [0.0]
    scheduler = scheduler_of(weighted("much", [10] * 9000, "t"), budget=1000, clock=lambda: now[0])
    scheduler.shared_tokens = lambda: 70.0
    scheduler.add(weighted("little", [10], "t"))
    granted(scheduler, 2)
    now[0] = 1.0
    scheduler.add(weighted("little", [10], "t"))
    assert {one.request.task for one in scheduled_in(scheduler.schedule())} == {"little"}
    assert {one.request.task for one in scheduled_in(scheduler.schedule())} == {"much"}


def test_who_asked_for_little_and_now_asks_for_much_has_no_pass_alone() -> None:
    now = [0.0]
    scheduler = scheduler_of(weighted("t", [10] * 9000, "much"), budget=1000, clock=lambda: now[0])
    scheduler.shared_tokens = lambda: 70.0
    scheduler.add(weighted("t", [10], "little"))
    granted(scheduler, 2)
    now[0] = 1.0
    scheduler.add(weighted("t", [10] * 8, "little"))
    assert served(scheduler, 1) == [{"little", "much"}]


def test_who_gets_more_for_a_larger_weight_does_not_make_the_others_small() -> None:
    now = [0.0]
    scheduler = scheduler_of(
        weighted("t", [10] * 9000, "a", 1), weighted("t", [10] * 9000, "b", 6), budget=700, clock=lambda: now[0]
    )
    scheduler.shared_tokens = lambda: 70.0
    granted(scheduler, 20)
    now[0] = 1.0
    assert sum(granted(scheduler, 1).values()) == 700


def test_a_sequence_longer_than_a_short_pass_still_runs() -> None:
    now = [0.0]
    scheduler = scheduler_of(weighted("t", [50] * 90, "much"), weighted("t", [5], "little"), budget=100)
    scheduler.shared_tokens = lambda: 0.5
    batches = drain(scheduler)
    assert sum(map(len, batches)) == 91
    assert now


def test_slots_of_generation_are_shared_by_tenant(load_backbone: Any) -> None:
    """Also where one has many tasks; by weight."""
    backbone: Backbone = load_backbone("llama")
    model = Model(backbone, budget=64, max_num_seqs=6)
    many = [generation(f"t{i}", [i, 1], new=8, arrival_time=i) for i in range(12)]
    one = [generation("t", [40 + i, 1], new=8, arrival_time=50 + i) for i in range(12)]
    for each in many:
        each.tenant = "many"
    for each in one:
        each.tenant, each.weight = "one", 2.0
    model.add(*many, *one)
    model.step()
    assert Counter(sequence.request.tenant for sequence in model.scheduler.running) == {"many": 2, "one": 4}
    model.finish()


def test_tokens_that_are_generated_count(load_backbone: Any) -> None:
    """Who generates has got something: what is left of a pass goes to the other first."""
    model = Model(load_backbone("llama"), budget=40, max_num_seqs=4)
    writes = generation("t", [1, 2], new=60)
    writes.tenant = "writes"
    model.add(writes, weighted("t", [1], "reads"))
    for _ in range(40):
        model.step()
    shares = model.scheduler.shares
    assert shares._tenants["writes"] == 41  # the prompt's two tokens, and one a step
    model.finish()


# ---- deadlines


def test_what_is_too_late_is_dropped_before_it_is_scheduled() -> None:
    now = [10.0]
    late, good = request("a", [1, 1, 1]), request("a", [1, 1])
    late.deadline = 10.5
    good.deadline = 100.0
    scheduler = scheduler_of(late, good, budget=100, clock=lambda: now[0])
    now[0] = 11.0
    assert scheduled_in(scheduler.schedule()) == good.sequences
    assert scheduler.expired == [late]
    assert Counter(scheduler.newly_scheduled) == Counter([*late.sequences, *good.sequences])  # none of them waits


def test_what_has_begun_goes_on() -> None:
    now = [10.0]
    one = request("a", [10, 10])
    one.deadline = 10.5
    scheduler = scheduler_of(one, budget=10, clock=lambda: now[0])
    assert len(scheduled_in(scheduler.schedule())) == 1
    now[0] = 11.0
    assert len(scheduled_in(scheduler.schedule())) == 1
    assert not scheduler.expired
