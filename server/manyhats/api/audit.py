"""The audit log: `/v1/audit`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from manyhats.api.answers import AliasTarget, examples
from manyhats.api.auth import require_admin
from manyhats.api.json_response import small_json
from manyhats.api.schemas import AnswerBody
from manyhats.api.state import runtime_of
from manyhats.registry.audit import AuditEntry
from manyhats.registry.records import Target
from manyhats.serving.threads import in_thread

router = APIRouter(prefix="/v1/audit", tags=["operations"], dependencies=[Depends(require_admin)])


class AuditBody(AnswerBody):
    """One change. `time`: unix seconds. `actor`: the key's name, `scanner` for a folder in the store, `keys-file` for a
    command; null where no key was needed. `version`: what was made or deleted. `from_versions`, `to_versions`: where
    `alias` pointed before and after. `detail`: the names of settings, or the key and its scopes."""

    id: int
    time: float
    actor: str | None
    tenant: str | None
    request_id: str | None
    action: Literal[
        "upload",
        "alias",
        "rollback",
        "withdraw_canary",
        "evaluate",
        "lift",
        "delete_alias",
        "delete_version",
        "delete_task",
        "settings",
        "pin",
        "unpin",
        "load",
        "unload",
        "key_create",
        "key_revoke",
    ]
    task: str | None
    alias: str | None
    version: int | None
    from_versions: list[AliasTarget]
    to_versions: list[AliasTarget]
    detail: str | None


class AuditList(AnswerBody):
    """A page of the log, the newest change first; `next_page_token` is null on the last. A key of some tasks sees
    their changes alone; its pages may be short."""

    model_config = examples(
        {
            "data": [
                {
                    "id": 12,
                    "time": 1760000000.0,
                    "actor": "team-ci",
                    "tenant": "team",
                    "request_id": "0f0e0d0c0b0a09080000000000000007",
                    "action": "upload",
                    "task": "team-spam",
                    "alias": "stable",
                    "version": 3,
                    "from_versions": [{"version": 2, "weight": 1.0}],
                    "to_versions": [{"version": 3, "weight": 1.0}],
                    "detail": None,
                }
            ],
            "next_page_token": None,
        }
    )

    data: list[AuditBody]
    next_page_token: str | None


@router.get("", response_model=AuditList)
async def list_changes(
    request: Request,
    task: Annotated[str | None, Query(max_length=128, description="of this task alone")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
) -> Response:
    """Who changed what, and from which versions to which, the newest first."""
    runtime = runtime_of(request)
    entries, following = await in_thread(runtime.threads.admin, runtime.registry.audit.page, limit, page_token, task)
    return small_json({"data": [_body(entry) for entry in entries], "next_page_token": following})


def _body(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "time": entry.time,
        "actor": entry.actor or None,
        "tenant": entry.tenant or None,
        "request_id": entry.request_id or None,
        "action": entry.action,
        "task": entry.task or None,
        "alias": entry.alias or None,
        "version": entry.version,
        "from_versions": _targets(entry.from_targets),
        "to_versions": _targets(entry.to_targets),
        "detail": entry.detail or None,
    }


def _targets(targets: tuple[Target, ...]) -> list[dict[str, Any]]:
    return [{"version": target.version, "weight": target.weight} for target in targets]
