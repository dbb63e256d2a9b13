"""The audit log: who changed what, from which versions to which. A change and its entry are one transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from manyhats.core.call import CURRENT_CALL, Call, Caller
from manyhats.errors import InvalidRequest
from manyhats.registry.database import AuditRow
from manyhats.registry.records import Target, Task, TaskSettings, Version
from manyhats.registry.rows import targets_of
from manyhats.registry.stores.base import MetadataStore

# Whom the log names where no client sent a request.
SCANNER = Call(caller=Caller(key="scanner"))  # imports folders from the store
CANARY = Call(caller=Caller(key="canary"))  # withdraws one that has passed a bound
KEYS_FILE = Call(caller=Caller(key="keys-file"))  # somebody changed the keys by a command

_SEARCHED = 10_000  # entries that are looked through for one page
_LONGEST = 200  # characters of a text in an entry


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `time`: unix seconds. `actor`: the name of a key, or what of the server did it; empty where no key
    was needed. `from_targets`, `to_targets`: where `alias` pointed before and after. `version`: what was made or
    deleted. `detail`: names of settings, of a folder, of a key."""

    id: int
    time: float
    actor: str
    tenant: str
    request_id: str
    action: str
    task: str
    alias: str
    version: int | None
    from_targets: tuple[Target, ...]
    to_targets: tuple[Target, ...]
    detail: str


class AuditLog:
    """The entries. `limit`: how many are kept."""

    def __init__(self, database: MetadataStore, limit: int) -> None:
        self._database = database
        self._limit = limit

    def record(
        self,
        session: Session,
        action: str,
        task: str,
        *,
        alias: str = "",
        version: int | None = None,
        before: Task | None = None,
        after: Task | None = None,
        detail: Iterable[str] = (),
    ) -> None:
        """Adds an entry inside a transaction, and drops the oldest over the limit.

        `before`, `after`: the task, of which the entry shows where `alias` points.
        """
        call = CURRENT_CALL.get()
        row = AuditRow(
            time=time.time(),
            actor=call.caller.key[:_LONGEST],
            tenant=call.caller.tenant[:_LONGEST],
            request_id=call.id,
            action=action,
            task=task,
            alias=alias,
            version=version,
            before=_targets(before, alias),
            after=_targets(after, alias),
            detail=", ".join(detail)[:_LONGEST],
        )
        session.add(row)
        session.flush()
        session.execute(delete(AuditRow).where(AuditRow.id <= row.id - self._limit))

    def record_upload(
        self, session: Session, before: Task, after: Task, version: Version, alias: str, settings: TaskSettings | None
    ) -> None:
        """Adds an entry for an upload, where it changes something. `alias`: what was pointed at it, or empty."""
        if settings is None and len(before.versions) == len(after.versions) and before.aliases == after.aliases:
            return
        names = sorted(settings.model_fields_set) if settings is not None else ()
        self.record(
            session,
            "upload",
            after.name,
            alias=alias,
            version=version.number,
            before=before,
            after=after,
            detail=names,
        )

    def add(self, action: str, task: str = "", *, detail: Iterable[str] = (), call: Call | None = None) -> None:
        """Adds an entry for what changes nothing in the database; `call`: whose it is, by default the present one's.

        Raises what a failed write raises.
        """
        before = CURRENT_CALL.set(call or CURRENT_CALL.get())
        try:
            with self._database.write() as session:
                self.record(session, action, task, detail=detail)
                session.commit()
        finally:
            CURRENT_CALL.reset(before)

    def page(self, limit: int, page_token: str | None, task: str | None = None) -> tuple[list[AuditEntry], str | None]:
        """A page of the entries that the caller sees, the newest first, and the token of the next page.

        `task`: of that one. Who sees some tasks alone sees the entries of these. So many others may lie between them
        that a page is short, or empty. Raises InvalidRequest for another's token.
        """
        caller = CURRENT_CALL.get().caller
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(_SEARCHED)
        if page_token is not None:
            query = query.where(AuditRow.id < _id_of(page_token))
        if task is not None:
            query = query.where(AuditRow.task == task)
        found: list[AuditEntry] = []
        looked = 0
        last = 0
        with self._database.read() as session:
            for row in session.scalars(query.execution_options(yield_per=500)):
                if len(found) == limit:
                    return found, str(last)
                looked += 1
                last = row.id
                if caller.tasks is None or (row.task and caller.sees(row.task)):
                    found.append(_entry(row))
        return found, str(last) if looked == _SEARCHED else None


def action_of(settings: Mapping[str, Any]) -> str:
    """What setting these is called."""
    if set(settings) != {"pinned"}:
        return "settings"
    return "pin" if settings["pinned"] else "unpin"


def _targets(task: Task | None, alias: str) -> list[list[float]]:
    return [] if task is None else [[one.version, one.weight] for one in task.aliases.get(alias, ())]


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        time=row.time,
        actor=row.actor,
        tenant=row.tenant,
        request_id=row.request_id,
        action=row.action,
        task=row.task,
        alias=row.alias,
        version=row.version,
        from_targets=targets_of(row.before),
        to_targets=targets_of(row.after),
        detail=row.detail,
    )


def _id_of(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidRequest("page_token is not one that this server gave", param="page_token")
    return int(token)
