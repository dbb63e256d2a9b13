"""Tasks, their settings, versions and aliases, and where their adapters are: `/v1/tasks`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from manyhats.api.auth import require_admin, require_read
from manyhats.api.body import documented, parse
from manyhats.api.schemas import AliasBody, RollbackBody, SettingsBody
from manyhats.api.state import runtime_of
from manyhats.errors import Conflict, InvalidRequest
from manyhats.registry.names import BASE, STABLE
from manyhats.registry.records import Target, Task, TaskSettings, Version
from manyhats.runtime import Runtime
from manyhats.serving.threads import in_thread

read_router = APIRouter(prefix="/v1/tasks", tags=["tasks"], dependencies=[Depends(require_read)])
admin_router = APIRouter(prefix="/v1/tasks", tags=["tasks"], dependencies=[Depends(require_admin)])


@read_router.get("")
async def list_tasks(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100, page_token: str | None = None
) -> dict[str, Any]:
    """All tasks by name, a page at a time."""
    runtime = runtime_of(request)
    tasks, following = runtime.registry.tasks(limit, page_token)
    return {"data": [summary(runtime, task) for task in tasks], "next_page_token": following}


@read_router.get("/{task}")
async def show_task(task: str, request: Request) -> dict[str, Any]:
    """One task with its versions, aliases and settings."""
    runtime = runtime_of(request)
    if task == BASE:
        base = runtime.service.base
        settings = runtime.service.base_settings
        return {
            "name": BASE,
            "kind": base.info.kind,
            "method": base.info.method,
            "version": base.number,
            "sha256": base.sha256,
            "residency": "slot",
            "bytes": base.info.bytes,
            "versions": [],
            "aliases": {},
            "labels": None,
            "template": None,
            "max_tokens": settings.max_tokens or runtime.backbone.max_tokens,
            "overflow": settings.overflow or "error",
            **embedding_body(settings),
            "backbone": runtime.backbone.name,
        }
    found, version = runtime.registry.lookup(task)
    return details(runtime, found, version)


@admin_router.put("/{task}", openapi_extra=documented(SettingsBody))
async def configure_task(task: str, request: Request) -> dict[str, Any]:
    """Sets what is not weights."""
    body = await parse(request, SettingsBody)
    runtime = runtime_of(request)
    _not_base(task)
    changed = await runtime.configure(task, body.model_dump(exclude_unset=True))
    return details(runtime, changed)


@admin_router.delete("/{task}", status_code=204)
async def delete_task(task: str, request: Request) -> Response:
    """Takes a task away; requests in flight finish."""
    _not_base(task)
    runtime = runtime_of(request)
    await in_thread(runtime.threads.admin, runtime.registry.delete_task, task)
    return Response(status_code=204)


# ---- versions


@read_router.get("/{task}/versions/{number}")
async def show_version(task: str, number: int, request: Request) -> dict[str, Any]:
    """One version."""
    runtime = runtime_of(request)
    return version_body(runtime, runtime.registry.task(task).version(number))


@admin_router.delete("/{task}/versions/{number}", status_code=204)
async def delete_version(task: str, number: int, request: Request) -> Response:
    """Removes a version that no alias points at."""
    runtime = runtime_of(request)
    await in_thread(runtime.threads.admin, runtime.registry.delete_version, task, number)
    return Response(status_code=204)


# ---- aliases


@admin_router.put("/{task}/aliases/{alias}", openapi_extra=documented(AliasBody))
async def set_alias(task: str, alias: str, request: Request) -> dict[str, Any]:
    """Points an alias at one version, or at several by weight."""
    body = await parse(request, AliasBody)
    if (body.version is None) == (body.split is None):
        raise InvalidRequest("give either 'version' or 'split'", param="version")
    targets = (
        [Target(body.version, 1.0)]
        if body.version is not None
        else [Target(target.version, float(target.weight)) for target in body.split or []]
    )
    runtime = runtime_of(request)
    return details(runtime, await in_thread(runtime.threads.admin, runtime.registry.set_alias, task, alias, targets))


@admin_router.delete("/{task}/aliases/{alias}")
async def delete_alias(task: str, alias: str, request: Request) -> dict[str, Any]:
    """Removes an alias other than `stable`."""
    runtime = runtime_of(request)
    return details(runtime, await in_thread(runtime.threads.admin, runtime.registry.delete_alias, task, alias))


@admin_router.post("/{task}/rollback", openapi_extra=documented(RollbackBody))
async def rollback(task: str, request: Request) -> dict[str, Any]:
    """Points `stable` back at what it pointed at before."""
    body = await parse(request, RollbackBody)
    runtime = runtime_of(request)
    return details(runtime, await in_thread(runtime.threads.admin, runtime.registry.rollback, task, body.version))


# ---- the adapter cache


@admin_router.post("/{task}/load")
async def load(task: str, request: Request) -> dict[str, Any]:
    """Loads the task's adapter into a slot; answers when it is there."""
    runtime = runtime_of(request)
    await runtime.ensure_loaded(task)
    return summary(runtime, *runtime.registry.lookup(task))


@admin_router.post("/{task}/unload")
async def unload(task: str, request: Request) -> dict[str, Any]:
    """Gives back the memory of the task's adapters, once no request uses them."""
    runtime = runtime_of(request)
    found = runtime.registry.task(task)
    for version in found.versions:
        runtime.adapter_cache.unload(version.sha256)
    return summary(runtime, found)


@admin_router.post("/{task}/pin")
async def pin(task: str, request: Request) -> dict[str, Any]:
    """Keeps the task's adapter in a slot."""
    runtime = runtime_of(request)
    _not_base(task)
    return details(runtime, await runtime.configure(task, {"pinned": True}))


@admin_router.post("/{task}/unpin")
async def unpin(task: str, request: Request) -> dict[str, Any]:
    """Lets the task's adapter be evicted again."""
    runtime = runtime_of(request)
    _not_base(task)
    return details(runtime, await runtime.configure(task, {"pinned": False}))


# ---- bodies


def summary(runtime: Runtime, task: Task, version: Version | None = None) -> dict[str, Any]:
    """A task as the list shows it: of `version`, or of the one that `stable` points at (the largest of a split)."""
    version = version or task.stable
    if version is None:
        empty = {"name": task.name, "kind": None, "method": None, "version": None, "residency": "disk", "bytes": 0}
        return empty | ({"quarantined": task.lost[STABLE]} if STABLE in task.lost else {})
    return {
        "name": task.name,
        "kind": task.settings_for(version).kind,
        "method": version.info.method,
        "version": version.number,
        "residency": runtime.adapter_cache.level(version.sha256),
        "bytes": version.info.bytes,
    } | _quarantine_body(runtime, version)


def details(runtime: Runtime, task: Task, version: Version | None = None) -> dict[str, Any]:
    """A task with everything that is known about it; `kind`, `method`, `labels` and so on are those of `version`."""
    version = version or task.stable
    settings = task.settings if version is None else task.settings_for(version)
    longest = runtime.backbone.max_tokens
    lost = {"quarantined": "; ".join(task.lost.values())} if task.lost else {}
    return summary(runtime, task, version) | {
        "kind": settings.kind,
        "versions": [version_body(runtime, v) for v in task.versions],
        "aliases": aliases_body(task),
        "labels": settings.labels,
        "template": settings.template,
        "chat_template": settings.chat_template,
        "system_prompt": settings.system_prompt,
        "stop_token_ids": settings.stop_token_ids or [],
        "max_tokens": settings.max_tokens or longest,
        "overflow": settings.overflow or "error",
        **embedding_body(settings),
        "defaults": settings.defaults,
        "priority": settings.priority,
        "pinned": settings.pinned,
        "warnings": [] if version is None else list(version.info.warnings),
        "created": task.created,
        **lost,
    }


def embedding_body(settings: TaskSettings) -> dict[str, Any]:
    """How embeddings are made."""
    return {
        "pooling": settings.pooling,
        "normalize": settings.normalize,
        "prompts": settings.prompts,
        "default_prompt_name": settings.default_prompt_name,
        "include_prompt": settings.include_prompt,
        "lower_case": settings.lower_case,
    }


def version_body(runtime: Runtime, version: Version) -> dict[str, Any]:
    """One version."""
    return {
        "version": version.number,
        "sha256": version.sha256,
        "method": version.info.method,
        "kind": version.info.kind,
        "rank": version.info.rank,
        "matched_tensors": version.info.matched_tensors,
        "bytes": version.info.bytes,
        "base": version.info.base,
        "created": version.created,
        "warnings": list(version.info.warnings),
        "card": version.info.card,
    } | _quarantine_body(runtime, version)


def _quarantine_body(runtime: Runtime, version: Version) -> dict[str, Any]:
    """Why the version's stored files are not used, where they are not."""
    reason = runtime.registry.quarantine.of(version)
    return {} if reason is None else {"quarantined": reason}


def aliases_body(task: Task) -> dict[str, Any]:
    """Each alias with its version, or its split; `stable` first."""
    return {
        alias: targets[0].version
        if len(targets) == 1
        else [{"version": target.version, "weight": target.weight} for target in targets]
        for alias, targets in sorted(task.aliases.items(), key=lambda item: (item[0] != STABLE, item[0]))
    }


def _not_base(task: str) -> None:
    if task == BASE:
        raise Conflict("`base` is the bare backbone; it cannot be changed", param="task")
