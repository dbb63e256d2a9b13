"""Where aliases point, and where `stable` pointed before: the rows of both, inside a transaction."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from manyhats.errors import Conflict
from manyhats.registry.database import AliasRow, HistoryRow, RolloutRow
from manyhats.registry.names import STABLE
from manyhats.registry.records import Target, Task
from manyhats.registry.rollout import Rollout
from manyhats.registry.rows import targets_of


def point(
    session: Session, task: Task, alias: str, targets: tuple[Target, ...], rollout: Rollout | None = None
) -> Task:
    """Moves an alias; remembers where `stable` pointed. `rollout`: what it has besides; None: what lasts of that."""
    before = task.aliases.get(alias)
    if rollout is None:
        own = task.rollouts.get(alias, Rollout())
        rollout = own if before == targets else own.lasting
    if before != targets:
        if alias == STABLE and before:
            session.add(HistoryRow(task=task.name, targets=_rows(before)))
        session.merge(AliasRow(task=task.name, alias=alias, targets=_rows(targets)))
    return _pointed(session, task, alias, targets, rollout)


def point_back(session: Session, task: Task) -> Task:
    """Moves `stable` back to what it pointed at before. Raises Conflict where there is nothing before."""
    now = task.aliases.get(STABLE)
    for row in session.scalars(select(HistoryRow).where(HistoryRow.task == task.name).order_by(HistoryRow.id.desc())):
        before = targets_of(row.targets)
        session.delete(row)
        if before != now and task.has(before):  # alike where what lay between was deleted
            session.merge(AliasRow(task=task.name, alias=STABLE, targets=_rows(before)))
            return _pointed(session, task, STABLE, before, task.rollouts.get(STABLE, Rollout()).lasting)
    raise Conflict(f"`{task.name}` has pointed at nothing else before", param="task")


def remove_alias(session: Session, task: Task, alias: str) -> Task:
    """Removes an alias."""
    session.execute(delete(AliasRow).where(AliasRow.task == task.name, AliasRow.alias == alias))
    session.execute(delete(RolloutRow).where(RolloutRow.task == task.name, RolloutRow.alias == alias))
    return task.with_alias(alias, None)


def remove_from_history(session: Session, task: Task, number: int) -> None:
    """Forgets that `stable` pointed at a version."""
    for row in session.scalars(select(HistoryRow).where(HistoryRow.task == task.name)):
        if any(target.version == number for target in targets_of(row.targets)):
            session.delete(row)


def _pointed(session: Session, task: Task, alias: str, targets: tuple[Target, ...], rollout: Rollout) -> Task:
    """The task with the alias there, whose row is written; writes what it has besides."""
    if rollout.empty:
        session.execute(delete(RolloutRow).where(RolloutRow.task == task.name, RolloutRow.alias == alias))
    else:
        session.merge(RolloutRow(task=task.name, alias=alias, rollout=rollout.as_row()))
    return task.with_alias(alias, targets, rollout)


def _rows(targets: tuple[Target, ...]) -> list[list[float]]:
    return [[target.version, target.weight] for target in targets]
