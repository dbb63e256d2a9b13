"""Rollouts: who keeps a version, what an alias has besides its versions, and how a canary is withdrawn."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from manyhats.core.call import CURRENT_CALL, Call
from manyhats.errors import Conflict, InvalidRequest, NotFound
from manyhats.registry.evaluation import Evaluation
from manyhats.registry.records import Target
from manyhats.registry.registry import Registry
from manyhats.registry.rollout import Canary, Rollout, Shadow, chosen
from sqlalchemy.orm import Session

from tests.registry.helpers import upload

VALUES = [f"user-{i}" for i in range(20_000)]
SPLIT = [Target(1, 90), Target(2, 10)]
CANARY = Canary(2, max_error_rate=0.1, min_requests=5)


def choices(weights: dict[int, float], key: str = "spam@stable") -> list[int]:
    return [chosen(weights, key, value) for value in VALUES]


@contextmanager
def calling(**headers: str) -> Iterator[None]:
    token = CURRENT_CALL.set(Call(headers={k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}))
    try:
        yield
    finally:
        CURRENT_CALL.reset(token)


@pytest.fixture
def three(registry: Registry) -> Registry:
    """The task `spam` with three versions."""
    for content in ("one", "two", "three"):
        upload(registry, "spam", content)
    return registry


# ---- who gets which version


@pytest.mark.parametrize("weights", [{2: 90, 3: 10}, {2: 0.5, 7: 0.25, 9: 0.25}, {1: 1, 2: 1}])
def test_the_shares_are_those_of_the_weights(weights: dict[int, float]) -> None:
    counted = Counter(choices(weights))
    for version, weight in weights.items():
        assert abs(counted[version] / len(VALUES) - weight / sum(weights.values())) < 0.015


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({2: 90, 3: 10}, {2: 80, 3: 20}, 0.1),
        ({2: 90, 3: 10}, {2: 900, 3: 100}, 0.0),  # the same shares
        ({2: 50, 3: 50}, {2: 50, 3: 50, 4: 25}, 0.2),  # another version takes from all
        ({2: 50, 3: 30, 4: 20}, {2: 50, 3: 30}, 0.2),  # a version that goes gives only its own away
    ],
)
def test_only_the_share_that_must_moves(before: dict[int, float], after: dict[int, float], moved: float) -> None:
    pairs = list(zip(choices(before), choices(after), strict=True))
    assert abs(sum(one != other for one, other in pairs) / len(pairs) - moved) < 0.015
    total = sum(before.values()), sum(after.values())
    for one, other in pairs:
        if one != other:  # only towards a version whose share has grown
            assert after[other] / total[1] > before.get(other, 0) / total[0]


def test_a_value_keeps_its_version_whatever_the_order_and_in_every_process() -> None:
    assert choices({2: 90, 3: 10}) == choices({3: 10, 2: 90})
    # What was once answered may never change: it is the same after a restart, and on another machine.
    assert [chosen({1: 1, 2: 1}, "spam@stable", f"user-{i}") for i in range(12)] == [1, 2, 2, 2, 1, 2, 2, 2, 1, 1, 1, 2]


def test_nobody_is_first_in_all_splits() -> None:
    first, second = choices({1: 1, 2: 1}, "spam@stable"), choices({1: 1, 2: 1}, "topic@stable")
    same = sum(one == other for one, other in zip(first, second, strict=True))
    assert abs(same / len(VALUES) - 0.5) < 0.02


def test_the_header_keeps_a_version_and_without_one_any_answers(three: Registry) -> None:
    three.set_alias("spam", "stable", [Target(1, 50), Target(2, 50)])
    with calling(x_affinity="ada"):
        assert len({three.resolve("spam").number for _ in range(50)}) == 1
    with calling(x_affinity=""):
        assert len({three.resolve("spam").number for _ in range(200)}) == 2
    assert len({three.resolve("spam").number for _ in range(200)}) == 2
    assert len({three.resolve("spam", "ada").number for _ in range(50)}) == 1


def test_an_alias_may_name_the_header(three: Registry) -> None:
    three.set_alias("spam", "stable", [Target(1, 50), Target(2, 50)], Rollout(affinity="X-User"))
    for user in map(str, range(20)):
        with calling(x_user=user, x_affinity="all the same"):
            expected = chosen({1: 50, 2: 50}, "spam@stable", user)
            assert {three.resolve("spam").number for _ in range(5)} == {expected}


# ---- what is kept, and what lasts


def test_a_rollout_survives_a_restart(three: Registry, opened: Callable[..., Registry], store: Path) -> None:
    rollout = Rollout("X-User", Shadow(3, 0.25), CANARY)
    three.set_alias("spam", "stable", SPLIT, rollout)
    three.close()
    task = opened(store).task("spam")
    assert task.rollouts == {"stable": rollout}
    assert task.aliases["stable"] == tuple(SPLIT)


def test_a_shadow_and_a_canary_end_when_the_alias_moves_and_the_header_lasts(three: Registry) -> None:
    rollout = Rollout("X-User", Shadow(3, 0.25), CANARY)
    moves = (
        lambda: three.rollback("spam"),
        lambda: three.set_alias("spam", "stable", [Target(3)]),
        lambda: upload(three, "spam", "four"),
    )
    for move in moves:
        three.set_alias("spam", "stable", SPLIT, rollout)
        move()
        assert three.task("spam").rollouts == {"stable": Rollout("X-User")}
    three.set_alias("spam", "stable", SPLIT, rollout)
    three.set_alias("spam", "stable", SPLIT)  # where it points already
    assert three.task("spam").rollouts == {"stable": rollout}
    three.set_alias("spam", "stable", SPLIT, Rollout())
    assert three.task("spam").rollouts == {}


def test_a_removed_alias_leaves_nothing(three: Registry, opened: Callable[..., Registry], store: Path) -> None:
    three.set_alias("spam", "x", [Target(1)], Rollout(shadow=Shadow(2, 1)))
    three.delete_alias("spam", "x")
    three.set_alias("spam", "x", [Target(1)])
    three.close()
    assert opened(store).task("spam").rollouts == {}


def test_a_shadow_keeps_its_version(three: Registry) -> None:
    three.set_alias("spam", "stable", [Target(1)], Rollout(shadow=Shadow(2, 1)))
    with pytest.raises(Conflict, match="stable points at it"):
        three.delete_version("spam", 2)
    three.set_alias("spam", "stable", [Target(1)], Rollout())
    three.delete_version("spam", 2)


@pytest.mark.parametrize(
    ("rollout", "kind", "reason"),
    [
        (Rollout("not a header"), InvalidRequest, "name of a header"),
        (Rollout(shadow=Shadow(3, 0)), InvalidRequest, "fraction"),
        (Rollout(shadow=Shadow(3, 1.5)), InvalidRequest, "fraction"),
        (Rollout(shadow=Shadow(3, 1, -1)), InvalidRequest, "tolerance"),
        (Rollout(shadow=Shadow(2, 1)), InvalidRequest, "another version"),
        (Rollout(shadow=Shadow(9, 1)), NotFound, "no version 9"),
        (Rollout(canary=replace(CANARY, version=3)), InvalidRequest, "has 1, 2"),
        (Rollout(canary=Canary(2)), InvalidRequest, "needs a bound"),
        (Rollout(canary=replace(CANARY, max_error_rate=1.0)), InvalidRequest, "max_error_rate"),
        (Rollout(canary=replace(CANARY, max_latency_ratio=0)), InvalidRequest, "max_latency_ratio"),
        (Rollout(canary=replace(CANARY, max_p95_ms=float("inf"))), InvalidRequest, "max_p95_ms"),
        (Rollout(canary=replace(CANARY, min_requests=0)), InvalidRequest, "min_requests"),
        (Rollout(canary=replace(CANARY, min_requests=5000)), InvalidRequest, "1 to 4096"),
        (Rollout(canary=replace(CANARY, window_seconds=1e9)), InvalidRequest, "window_seconds"),
    ],
)
def test_what_cannot_be_is_refused(three: Registry, rollout: Rollout, kind: type[Exception], reason: str) -> None:
    before = three.task("spam")
    with pytest.raises(kind, match=reason):
        three.set_alias("spam", "stable", SPLIT, rollout)
    assert three.task("spam") is before


# ---- a canary is withdrawn


def test_a_withdrawn_canary_gives_its_share_to_the_others(
    three: Registry, opened: Callable[..., Registry], store: Path
) -> None:
    split = [Target(1, 60), Target(2, 10), Target(3, 30)]
    three.set_alias("spam", "stable", split, Rollout("X-User", canary=CANARY))
    assert three.withdraw_canary("spam", "stable", CANARY, "it failed") is not None
    three.close()
    again = opened(store)
    task = again.task("spam")
    assert task.aliases["stable"] == (Target(1, 60), Target(3, 30))
    rollout = task.rollouts["stable"]
    assert rollout.canary is None
    assert rollout.affinity == "X-User"
    assert (rollout.withdrawn.version, rollout.withdrawn.reason) == (2, "it failed")  # type: ignore[union-attr]
    # It is a change of the alias as any: what it pointed at before is in its history.
    assert again.rollback("spam").aliases["stable"] == tuple(split)
    assert again.task("spam").rollouts == {"stable": Rollout("X-User")}


def test_only_the_canary_that_was_judged_is_withdrawn(three: Registry) -> None:
    three.set_alias("spam", "stable", SPLIT, Rollout(canary=replace(CANARY, min_requests=7)))
    before = three.task("spam")
    assert three.withdraw_canary("spam", "stable", CANARY, "late") is None
    assert three.withdraw_canary("spam", "other", CANARY, "late") is None
    assert three.withdraw_canary("gone", "stable", CANARY, "late") is None
    assert three.task("spam") is before


# ---- evaluations


def evaluation(activated: bool, baseline_version: int | None = 3) -> Evaluation:
    return Evaluation("accuracy", 0.9, 0.8, baseline_version, 10, 0.01, "stable", activated, "better", 1.0)


def test_an_evaluation_is_kept_and_moves_the_alias_with_it(
    three: Registry, opened: Callable[..., Registry], store: Path
) -> None:
    kept = three.record_evaluation(three.task("spam").version(1), evaluation(True))
    assert kept.evaluation == evaluation(True)
    three.close()
    task = opened(store).task("spam")
    assert task.version(1).evaluation == evaluation(True)
    assert task.version(2).evaluation is None
    assert task.aliases["stable"] == (Target(1),)


def test_a_refused_version_leaves_the_alias_alone(three: Registry) -> None:
    three.record_evaluation(three.task("spam").version(1), evaluation(False))
    assert three.task("spam").aliases["stable"] == (Target(3),)


def test_an_evaluation_beside_what_is_not_stable_any_more_activates_nothing(three: Registry) -> None:
    kept = three.record_evaluation(three.task("spam").version(1), evaluation(True, baseline_version=2))
    assert kept.evaluation is not None
    assert not kept.evaluation.activated
    assert "version 3 after" in kept.evaluation.reason
    assert three.task("spam").aliases["stable"] == (Target(3),)


def test_a_deleted_version_takes_its_evaluation_along(three: Registry, store: Path) -> None:
    three.record_evaluation(three.task("spam").version(1), evaluation(False))
    three.delete_version("spam", 1)
    with pytest.raises(NotFound):
        three.record_evaluation(three.task("spam").version(2).__class__("spam", 1, "", None, 0.0), evaluation(False))  # type: ignore[arg-type]
    three.close()
    with sqlite3.connect(store / ".manyhats" / "registry.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM evaluations").fetchone() == (0,)


def test_what_is_not_committed_is_nowhere(
    three: Registry, opened: Callable[..., Registry], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three.set_alias("spam", "stable", SPLIT, Rollout(canary=CANARY))
    before = three.task("spam")

    def broken(session: Session) -> None:
        session.flush()  # all of it has been sent to the database
        raise RuntimeError("the process ends here")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", broken)
        for change in (
            lambda: three.withdraw_canary("spam", "stable", CANARY, "it failed"),
            lambda: three.record_evaluation(before.version(3), evaluation(True, baseline_version=1)),
            lambda: three.set_alias("spam", "stable", [Target(3)], Rollout("X-User")),
        ):
            with pytest.raises(RuntimeError, match="ends here"):
                change()
    assert three.task("spam") is before
    three.close()
    task = opened(store).task("spam")
    assert (task.aliases, task.rollouts) == (before.aliases, before.rollouts)
    assert all(version.evaluation is None for version in task.versions)


# ---- a store of before


def test_a_store_of_the_schema_before_is_taken_over(
    three: Registry, opened: Callable[..., Registry], store: Path
) -> None:
    three.close()
    path = store / ".manyhats" / "registry.sqlite3"
    with sqlite3.connect(path) as connection:
        for table in ("rollouts", "evaluations"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE schema SET version = 1")
    again = opened(store)
    assert [version.number for version in again.task("spam").versions] == [1, 2, 3]
    again.set_alias("spam", "stable", SPLIT, Rollout(canary=CANARY))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema").fetchall() == [(3,)]
