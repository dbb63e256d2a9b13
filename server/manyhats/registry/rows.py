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
from manyhats.registry.records import AdapterInfo, Target, Task, TaskSettings, Version, parse_settings
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
    """The tasks that are `wanted` by the column of their name.

    Columns are read and not rows as objects, which take three times as long; and what many versions have alike, as the
    card that a trainer leaves as it is, is kept once.
    """
    alike: dict[Any, Any] = {}
    of_evaluations = select(EvaluationRow.task, EvaluationRow.number, EvaluationRow.evaluation)
    evaluations = {
        (task, number): evaluation_of(evaluation)
        for task, number, evaluation in session.execute(of_evaluations.where(wanted(EvaluationRow.task)))
    }
    versions: dict[str, list[Version]] = {}
    columns = (VersionRow.task, VersionRow.number, VersionRow.sha256, VersionRow.info, VersionRow.created)
    of_versions = select(*columns).where(wanted(VersionRow.task)).order_by(VersionRow.number)
    for task, number, sha256, info, created in session.execute(of_versions):
        evaluation = evaluations.get((task, number))
        versions.setdefault(task, []).append(Version(task, number, sha256, info_of(info, alike), created, evaluation))
    aliases: dict[str, dict[str, tuple[Target, ...]]] = {}
    of_aliases = select(AliasRow.task, AliasRow.alias, AliasRow.targets).where(wanted(AliasRow.task))
    for task, alias, targets in session.execute(of_aliases):
        aliases.setdefault(task, {})[alias] = targets_of(targets)
    rollouts: dict[str, dict[str, Rollout]] = {}
    of_rollouts = select(RolloutRow.task, RolloutRow.alias, RolloutRow.rollout).where(wanted(RolloutRow.task))
    for task, alias, rollout in session.execute(of_rollouts):
        rollouts.setdefault(task, {})[alias] = rollout_of(rollout)
    of_tasks = select(TaskRow.name, TaskRow.created, TaskRow.settings).where(wanted(TaskRow.name))
    unset = TaskSettings()
    tasks = [
        _with_aliases(
            Task(name, created, parse_settings(settings) if settings else unset, tuple(versions.get(name, ()))),
            aliases.get(name, {}),
            rollouts.get(name, {}),
        )
        for name, created, settings in session.execute(of_tasks)
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


def info_of(row: Mapping[str, Any], alike: dict[Any, Any] | None = None) -> AdapterInfo:
    """What inspecting a version's files found. `alike`: texts and tuples that were read before, and are kept once."""
    values = dict(row)
    for name in ("labels", "warnings", "references", "kinds"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    if alike is not None:
        for name in ("labels", "warnings", "references", "kinds", "method", "kind", "base", "card"):
            value = values.get(name)
            values[name] = alike.setdefault(value, value)
    return AdapterInfo(**values)
