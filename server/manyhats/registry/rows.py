"""What the tables' rows say, as records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from manyhats.registry.database import AliasRow, EvaluationRow, RolloutRow, TaskRow, VersionRow
from manyhats.registry.evaluation import evaluation_of
from manyhats.registry.origin import origin_of
from manyhats.registry.records import AdapterInfo, Target, Task, Version, parse_settings
from manyhats.registry.rollout import Rollout, rollout_of

logger = logging.getLogger(__name__)


def read_tasks(session: Session) -> list[Task]:
    """All tasks. Raises InvalidRequest, TypeError, ValueError or KeyError for rows that were never written here."""
    evaluations = {(e.task, e.number): evaluation_of(e.evaluation) for e in session.scalars(select(EvaluationRow))}
    versions: dict[str, list[Version]] = {}
    for row in session.scalars(select(VersionRow).order_by(VersionRow.number)):
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
    for alias in session.scalars(select(AliasRow)):
        aliases.setdefault(alias.task, {})[alias.alias] = targets_of(alias.targets)
    rollouts: dict[str, dict[str, Rollout]] = {}
    for one in session.scalars(select(RolloutRow)):
        rollouts.setdefault(one.task, {})[one.alias] = rollout_of(one.rollout)
    tasks = [
        _with_aliases(
            Task(task.name, task.created, parse_settings(task.settings), tuple(versions.get(task.name, ()))),
            aliases.get(task.name, {}),
            rollouts.get(task.name, {}),
        )
        for task in session.scalars(select(TaskRow))
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
    return AdapterInfo(**{**values, "origin": origin_of(values.get("origin"))})
