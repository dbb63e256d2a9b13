"""Which replica a request goes to."""

from __future__ import annotations

import random
from collections import Counter

from manyhats.scale.affinity import Affinity, Holdings, Load, preference

TASKS = [f"task-{i}" for i in range(1000)]
FOUR = {name: Load() for name in ("a", "b", "c", "d")}


def first(affinity: Affinity, task: str | None, replicas: dict[str, Load]) -> str:
    return affinity.ranked(task, replicas)[0][0]


def test_each_task_has_a_home_and_homes_are_spread_evenly() -> None:
    affinity = Affinity()
    homes = [first(affinity, task, FOUR) for task in TASKS]
    assert homes == [first(affinity, task, FOUR) for task in TASKS]
    assert all(200 < count < 300 for count in Counter(homes).values())


def test_a_replica_that_goes_moves_only_its_own_tasks() -> None:
    affinity = Affinity()
    three = {name: load for name, load in FOUR.items() if name != "b"}
    for task in TASKS:
        before, after = first(affinity, task, FOUR), first(affinity, task, three)
        assert after == before or before == "b"


def test_the_same_order_in_every_process() -> None:
    """Fronts do not know of each other."""
    assert preference("spam", ("a", "b", "c", "d")) == ("a", "d", "b", "c")


def test_every_replica_is_ranked_once() -> None:
    affinity = Affinity()
    busy = {"a": Load(90, frozenset({"spam"})), "b": Load(2), "c": Load(1, frozenset({"spam"})), "d": Load(50)}
    for task in (*TASKS[:50], "spam", None):
        ranked = [one for rank in affinity.ranked(task, busy) for one in rank]
        assert sorted(ranked) == ["a", "b", "c", "d"]
    assert affinity.ranked("spam", {}) == []


def test_a_home_with_more_than_its_share_passes_on_to_one_that_holds_the_task() -> None:
    affinity = Affinity(spread=1.25, slack=8)
    order = preference("spam", tuple(FOUR))
    assert first(affinity, "spam", {**FOUR, order[0]: Load(7)}) == order[0]  # a batch is not full yet
    loads = {**FOUR, order[0]: Load(20), order[3]: Load(3, frozenset({"spam"}))}
    assert first(affinity, "spam", loads) == order[3]


def test_a_hot_task_gets_one_more_holder_where_all_that_hold_it_are_busy() -> None:
    affinity = Affinity()
    order = preference("spam", tuple(FOUR))
    held = frozenset({"spam"})
    loads = {**FOUR, order[0]: Load(40, held), order[2]: Load(40, held)}
    assert first(affinity, "spam", loads) == order[1]


def test_a_hot_task_spreads_and_the_others_stay_at_home() -> None:
    """A task with nine tenths of the traffic; what is under way is always 64 requests."""
    rng = random.Random(0)
    affinity = Affinity(rng=rng)
    loads = {name: Load() for name in FOUR}
    under_way: list[str] = []
    hot: Counter[str] = Counter()
    strayed = 0
    for i in range(4000):
        if len(under_way) >= 64:
            gone = under_way.pop(rng.randrange(len(under_way)))
            loads[gone] = Load(loads[gone].ongoing - 1, loads[gone].holds)
        task = "hot" if rng.random() < 0.9 else TASKS[i % 40]
        chosen = first(affinity, task, loads)
        loads[chosen] = Load(loads[chosen].ongoing + 1, loads[chosen].holds | {task})
        under_way.append(chosen)
        if task == "hot":
            hot[chosen] += 1
        else:
            strayed += chosen != preference(task, tuple(FOUR))[0]
        assert max(load.ongoing for load in loads.values()) <= 1.25 * 65 / 4 + 1
    assert len(hot) == 4
    assert min(hot.values()) > 0.1 * sum(hot.values())
    assert strayed < 400  # of as many; a home that the hot task has filled passes others on, too


def test_a_request_that_names_no_task_goes_to_one_of_two() -> None:
    affinity = Affinity(rng=random.Random(0))
    chosen = {one for _ in range(200) for one in affinity.ranked(None, FOUR)[0]}
    assert chosen == set(FOUR)
    assert len(affinity.ranked(None, FOUR)[0]) == 2


def test_what_was_sent_counts_as_held_until_the_next_report() -> None:
    holdings = Holdings()
    report = {"holds": ["spam"]}
    assert holdings.of("a", report) == {"spam"}
    holdings.sent("a", "topic")
    assert holdings.of("a", report) == {"spam", "topic"}
    assert holdings.of("a", {"holds": ["spam"]}) == {"spam"}  # it says something new
    assert holdings.of("b", {}) == frozenset()


def test_what_is_believed_of_a_replica_is_bounded_and_forgotten_with_it() -> None:
    holdings = Holdings()
    report: dict[str, object] = {}
    for i in range(2 * Holdings._MOST):
        holdings.of("a", report)
        holdings.sent("a", f"task-{i}")
    assert len(holdings.of("a", report)) == Holdings._MOST
    holdings.keep({"b": None})
    assert holdings.of("a", report) == frozenset()


def hit_rate(replicas: int, *, chosen_by_task: bool) -> float:
    """Of 64 tasks by Zipf's law, with 36 slots a replica and 32 requests under way: those that find their adapter."""
    rng = random.Random(0)
    affinity = Affinity(rng=rng)
    slots: dict[str, dict[str, None]] = {str(i): {} for i in range(replicas)}  # the last used at the end
    under_way: list[str] = []
    hits = 0
    weights = [1 / (rank + 1) for rank in range(64)]
    for task in rng.choices(TASKS[:64], weights, k=5000):
        if len(under_way) >= 32:
            under_way.pop(rng.randrange(len(under_way)))
        loads = {name: Load(under_way.count(name), frozenset(held)) for name, held in slots.items()}
        ranked = affinity.ranked(task if chosen_by_task else None, loads)[0]
        chosen = min(ranked, key=lambda name: loads[name].ongoing)
        under_way.append(chosen)
        held = slots[chosen]
        hits += task in held
        held.pop(task, None)
        held[task] = None
        if len(held) > 36:
            held.pop(next(iter(held)))
    return hits / 5000


def test_more_requests_find_their_adapter_than_with_the_shorter_of_two_queues() -> None:
    for replicas in (2, 3):
        assert hit_rate(replicas, chosen_by_task=True) > 0.92
        assert hit_rate(replicas, chosen_by_task=False) < 0.85
