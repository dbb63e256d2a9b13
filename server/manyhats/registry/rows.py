"""What the tables' rows say, as records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from manyhats.registry.database import AliasRow, EvaluationRow, RolloutRow, TaskRow, VersionRow
from manyhats.registry.evaluation import evaluation_of
from manyhats.registry.records import AdapterInfo, Target, Task, Version, parse_settings
from manyhats.registry.rollout import Rollout, rollout_of

logger = logging.getLogger(__name__)


_AT_ONCE = 500  # names in one statement


def read_tasks(session: Session, names: Collection[str] | None = None) -> list[Task]:
    """All tasks, or those of these names that are there.

    Raises InvalidRequest, TypeError, ValueError or KeyError for rows that were never written here.
    """
    if names is not None:
        found: list[Task] = []
        ordered = sorted(names)
        for i in range(0, len(ordered), _AT_ONCE):
            part = ordered[i : i + _AT_ONCE]
            found += _read(session, lambda column, part=part: column.in_(part))  # type: ignore[misc]
        return found
    return _read(session, lambda column: true())


def _read(session: Session, wanted: Callable[[InstrumentedAttribute[str]], ColumnElement[bool]]) -> list[Task]:
    """The tasks that are `wanted` by the column of their name."""
    evaluations = {
        (e.task, e.number): evaluation_of(e.evaluation)
        for e in session.scalars(select(EvaluationRow).where(wanted(EvaluationRow.task)))
    }
    versions: dict[str, list[Version]] = {}
    for row in session.scalars(select(VersionRow).where(wanted(VersionRow.task)).order_by(VersionRow.number)):
        versions.setdefault(row.task, []).append(
            Version(
                row.task,
                row.number,
                row.sha256,
                info_of(row.info),
                row.created,
                evaluations.get((row.task, row.number)),
            )
        )
    aliases: dict[str, dict[str, tuple[Target, ...]]] = {}
    for alias in session.scalars(select(AliasRow).where(wanted(AliasRow.task))):
        aliases.setdefault(alias.task, {})[alias.alias] = targets_of(alias.targets)
    rollouts: dict[str, dict[str, Rollout]] = {}
    for one in session.scalars(select(RolloutRow).where(wanted(RolloutRow.task))):
        rollouts.setdefault(one.task, {})[one.alias] = rollout_of(one.rollout)
    tasks = [
        _with_aliases(
            Task(task.name, task.created, parse_settings(task.settings), tuple(versions.get(task.name, ()))),
            aliases.get(task.name, {}),
            rollouts.get(task.name, {}),
        )
        for task in session.scalars(select(TaskRow).where(wanted(TaskRow.name)))
    ]
    for name in sorted((versions.keys() | aliases.keys()) - {task.name for task in tasks}):
        logger.error("the database has versions or aliases of a task %s that is not there, which are ignored", name)
    return tasks


def _with_aliases(task: Task, aliases: Mapping[str, tuple[Target, ...]], rollouts: Mapping[str, Rollout]) -> Task:
    """The task with those aliases whose versions are there; the others are lost, and named."""
    lost = {}
    for alias, targets in aliases.items():
        if not task.has(targets):
            there = {version.number for version in task.versions}
            numbers = ", ".join(str(target.version) for target in targets if target.version not in there)
            lost[alias] = f"the alias '{alias}' points at version {numbers}, which is not there"
            logger.error("the store's database is damaged: in the task %s %s", task.name, lost[alias])
    found = {a: targets for a, targets in aliases.items() if a not in lost}
    return replace(task, aliases=found, lost=lost, rollouts={a: r for a, r in rollouts.items() if a in found})


def targets_of(rows: Sequence[Sequence[float]]) -> tuple[Target, ...]:
    """What an alias's row points at."""
    return tuple(Target(int(version), weight) for version, weight in rows)


def info_of(row: Mapping[str, Any]) -> AdapterInfo:
    """What inspecting a version's files found."""
    values = dict(row)
    for name in ("labels", "warnings", "references", "kinds"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return AdapterInfo(**values)
