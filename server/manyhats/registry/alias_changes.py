"""What changes where aliases point. Each change is one transaction; memory changes only after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from manyhats.errors import Conflict, NotFound
from manyhats.registry.aliases import point, point_back, remove_alias
from manyhats.registry.audit import AuditLog
from manyhats.registry.database import EvaluationRow
from manyhats.registry.evaluation import Evaluation
from manyhats.registry.index import AdapterIndex
from manyhats.registry.names import STABLE, check_alias, check_name
from manyhats.registry.records import Target, Task, Version, check_split
from manyhats.registry.rollout import Canary, Rollout
from manyhats.registry.stores.base import MetadataStore

logger = logging.getLogger(__name__)

Listener = Callable[[str, Version | None, str], None]


class AliasChanges(AdapterIndex):
    """The part of the registry that moves aliases."""

    audit: AuditLog
    _database: MetadataStore
    _listeners: list[Listener]

    def subscribe(self, listener: Listener) -> None:
        """`listener(event, version, task)` is called after a commit; events: `activated`, `deleted`, and `changed`,
        without a version, where another server has changed the task."""
        self._listeners.append(listener)

    def set_alias(
        self,
        task: str,
        alias: str,
        targets: Sequence[Target],
        rollout: Rollout | None = None,
        *,
        action: str = "alias",
    ) -> Task:
        """Points an alias at one version or at several; the audit log calls it `action`.

        Raises InvalidRequest or NotFound.

        `rollout`: what it has besides from now on; None: as it was where the versions are the same, else its affinity.
        """
        check_name(task, write=True)
        check_alias(alias)
        check_split(targets)
        if rollout is not None:
            rollout.check([target.version for target in targets])
        with self._database.write(task) as session:
            found = self.task(task)
            versions = [found.version(target.version) for target in targets]
            if rollout is not None and rollout.shadow is not None:
                found.version(rollout.shadow.version)
            after = point(session, found, alias, tuple(targets), rollout)
            self.audit.record(session, action, task, alias=alias, before=found, after=after)
            session.commit()
            self._put(after)
        for version in versions:
            self._notify("activated", version, task)
        return after

    def delete_alias(self, task: str, alias: str) -> Task:
        """Removes an alias. Raises Conflict for `stable`."""
        check_name(task, write=True)
        if alias == STABLE:
            raise Conflict(f"the alias '{STABLE}' is what the plain name means; it cannot be removed", param="alias")
        return self._database.delete(lambda: self._delete_alias(task, alias))

    def _delete_alias(self, task: str, alias: str) -> Task:
        with self._database.write(task) as session:
            found = self.task(task)
            if alias not in found.aliases and alias not in found.lost:
                raise NotFound(f"The task `{task}` has no alias '{alias[:200]}'.", param="alias")
            after = remove_alias(session, found, alias)
            self.audit.record(session, "delete_alias", task, alias=alias, before=found)
            session.commit()
            return self._put(after)

    def rollback(self, task: str, to: int | None = None) -> Task:
        """`stable` back to what it pointed at before; again, further back. With `to`, to that version.

        Raises Conflict where there is nothing before.
        """
        if to is not None:
            return self.set_alias(task, STABLE, [Target(to)], action="rollback")
        check_name(task, write=True)
        with self._database.write(task) as session:
            found = self.task(task)
            after = point_back(session, found)
            self.audit.record(session, "rollback", task, alias=STABLE, before=found, after=after)
            session.commit()
            self._put(after)
        for version in after.stable_versions:
            self._notify("activated", version, task)
        return after

    def withdraw_canary(self, task: str, alias: str, canary: Canary, reason: str) -> Task | None:
        """Takes a canary out of its alias's split: the other versions get its share, and the reason is kept.

        None where the alias has another canary by now, or none: somebody was faster.
        """
        with self._database.write(task) as session:
            found = self.find(task)
            rollout = None if found is None else found.rollouts.get(alias)
            if found is None or rollout is None or rollout.canary != canary:
                return None
            others = tuple(target for target in found.aliases[alias] if target.version != canary.version)
            after = point(session, found, alias, others, rollout.without_canary(reason, time.time()))
            self.audit.record(
                session, "withdraw_canary", task, alias=alias, before=found, after=after, detail=(reason,)
            )
            session.commit()
            self._put(after)
        for target in others:
            self._notify("activated", after.version(target.version), task)
        return after

    def record_evaluation(self, version: Version, evaluation: Evaluation) -> Version:
        """Keeps an evaluation with its version and, where that says so, points its alias at the version: both or
        neither. An alias whose baseline is no longer the stable version is left alone, which the evaluation then says.

        Raises NotFound where the version was deleted meanwhile.
        """
        with self._database.write(version.task) as session:
            found = self.task(version.task)
            found.version(version.number)
            stable = found.stable
            now = None if stable is None else stable.number
            if evaluation.activated and now != evaluation.baseline_version:
                before = "nothing" if evaluation.baseline_version is None else f"version {evaluation.baseline_version}"
                after = "nothing" if now is None else f"version {now}"
                evaluation = evaluation.refused(
                    f"{STABLE} pointed at {before} before the evaluation, and at {after} after it; send it again"
                )
            evaluated = replace(found.version(version.number), evaluation=evaluation)
            after_all = found.with_version(evaluated)
            session.merge(EvaluationRow(task=version.task, number=version.number, evaluation=asdict(evaluation)))
            if evaluation.activated:
                after_all = point(session, after_all, evaluation.alias, (Target(version.number),))
            alias = evaluation.alias if evaluation.activated else ""
            self.audit.record(
                session,
                "evaluate",
                version.task,
                alias=alias,
                version=version.number,
                before=found,
                after=after_all,
                detail=("activated" if evaluation.activated else "not activated",),
            )
            session.commit()
            self._put(after_all)
        if evaluation.activated:
            self._notify("activated", evaluated, version.task)
        return evaluated

    def _notify(self, event: str, version: Version | None, task: str) -> None:
        for listener in self._listeners:
            try:
                listener(event, version, task)
            except Exception:
                logger.exception("a listener failed at '%s' of %s", event, task)
