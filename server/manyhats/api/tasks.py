"""Tasks, their settings, versions and aliases, and where their adapters are: `/v1/tasks`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from manyhats.api.answers import TaskBody, TaskList, TaskSummary, TaskVersion
from manyhats.api.auth import require_admin, require_read
from manyhats.api.body import documented, parse
from manyhats.api.json_response import small_json
from manyhats.api.rollouts import AliasState, alias_state
from manyhats.api.schemas import AliasBody, RollbackBody, SettingsBody
from manyhats.api.state import runtime_of
from manyhats.api.views import details, embedding_body, summary, version_ref, whole_version_body
from manyhats.registry.names import BASE, check_alias, check_not_base
from manyhats.registry.visibility import check_base
from manyhats.serving.threads import in_thread

read_router = APIRouter(prefix="/v1/tasks", tags=["tasks"], dependencies=[Depends(require_read)])
admin_router = APIRouter(prefix="/v1/tasks", tags=["tasks"], dependencies=[Depends(require_admin)])


@read_router.get("", response_model=TaskList)
async def list_tasks(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    page_token: str | None = None,
    search: Annotated[str | None, Query(max_length=128, description="a part of the name, in whatever case")] = None,
) -> Response:
    """All tasks by name, a page at a time, or those with `search` in their names."""
    runtime = runtime_of(request)
    tasks, following = runtime.registry.tasks(limit, page_token, search)
    return small_json({"data": [summary(runtime, task) for task in tasks], "next_page_token": following})


@read_router.get("/{task}", response_model=TaskBody)
async def show_task(task: str, request: Request) -> Response:
    """One task with its versions, aliases and settings."""
    runtime = runtime_of(request)
    if task == BASE:
        check_base()
        base = runtime.service.base
        settings = runtime.service.base_settings
        bare = {
            "name": BASE,
            "kind": base.info.kind,
            "method": base.info.method,
            **version_ref(base),
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
            "kinds": list(runtime.service.base_kinds),
            "chats": bool(runtime.backbone.tokenizer.loaded.chat_template),
        }
        return small_json(bare)
    found, version = runtime.registry.lookup(task)
    return small_json(details(runtime, found, version))


@admin_router.put("/{task}", openapi_extra=documented(SettingsBody), response_model=TaskBody)
async def configure_task(task: str, request: Request) -> Response:
    """Sets what is not weights."""
    body = await parse(request, SettingsBody)
    runtime = runtime_of(request)
    check_not_base(task)
    changed = await runtime.configure(task, body.model_dump(exclude_unset=True))
    return small_json(details(runtime, changed))


@admin_router.delete("/{task}", status_code=204)
async def delete_task(task: str, request: Request) -> Response:
    """Takes a task away; requests in flight finish."""
    check_not_base(task)
    runtime = runtime_of(request)
    await in_thread(runtime.threads.admin, runtime.registry.delete_task, task)
    return Response(status_code=204)


# ---- versions


@read_router.get("/{task}/versions/{number}", response_model=TaskVersion)
async def show_version(task: str, number: int, request: Request) -> Response:
    """One version."""
    runtime = runtime_of(request)
    return small_json(whole_version_body(runtime, runtime.registry.task(task).version(number)))


@admin_router.delete("/{task}/versions/{number}", status_code=204)
async def delete_version(task: str, number: int, request: Request) -> Response:
    """Removes a version that no alias points at."""
    runtime = runtime_of(request)
    await in_thread(runtime.threads.admin, runtime.registry.delete_version, task, number)
    return Response(status_code=204)


# ---- aliases


@read_router.get("/{task}/aliases/{alias}", response_model=AliasState)
async def show_alias(task: str, alias: str, request: Request) -> Response:
    """One alias: where it points, its shadow and its canary, and what was counted of them."""
    runtime = runtime_of(request)
    found = runtime.registry.task(task)
    check_alias(alias)
    runtime.registry.resolve(f"{task}@{alias}")  # raises where there is no such alias
    return small_json(alias_state(runtime, found, alias))


@admin_router.put("/{task}/aliases/{alias}", openapi_extra=documented(AliasBody), response_model=TaskBody)
async def set_alias(task: str, alias: str, request: Request) -> Response:
    """Points an alias at one version, or at several by weight; with what runs beside them, and when a canary ends."""
    body = await parse(request, AliasBody)
    targets, rollout = body.targets(), body.rollout()
    runtime = runtime_of(request)
    changed = await in_thread(runtime.threads.admin, runtime.registry.set_alias, task, alias, targets, rollout)
    return small_json(details(runtime, changed))


@admin_router.delete("/{task}/aliases/{alias}", response_model=TaskBody)
async def delete_alias(task: str, alias: str, request: Request) -> Response:
    """Removes an alias other than `stable`."""
    runtime = runtime_of(request)
    return small_json(
        details(runtime, await in_thread(runtime.threads.admin, runtime.registry.delete_alias, task, alias))
    )


@admin_router.post("/{task}/rollback", openapi_extra=documented(RollbackBody), response_model=TaskBody)
async def rollback(task: str, request: Request) -> Response:
    """Points `stable` back at what it pointed at before."""
    body = await parse(request, RollbackBody)
    runtime = runtime_of(request)
    return small_json(
        details(runtime, await in_thread(runtime.threads.admin, runtime.registry.rollback, task, body.version))
    )


# ---- the adapter cache


@admin_router.post("/{task}/load", response_model=TaskSummary)
async def load(task: str, request: Request) -> Response:
    """Loads the task's adapter into a slot; answers when it is there."""
    runtime = runtime_of(request)
    await runtime.ensure_loaded(task)
    found, version = runtime.registry.lookup(task)
    await in_thread(runtime.threads.admin, runtime.registry.audit.add, "load", found.name)
    return small_json(summary(runtime, found, version))


@admin_router.post("/{task}/unload", response_model=TaskSummary)
async def unload(task: str, request: Request) -> Response:
    """Gives back the memory of the task's adapters, once no request uses them."""
    runtime = runtime_of(request)
    found = runtime.registry.task(task)
    for version in found.versions:
        runtime.adapter_cache.unload(version.sha256)
    await in_thread(runtime.threads.admin, runtime.registry.audit.add, "unload", found.name)
    return small_json(summary(runtime, found))


@admin_router.post("/{task}/lift", response_model=TaskSummary)
async def lift(task: str, request: Request) -> Response:
    """Has all versions of a task asked again, and share batches, that were quarantined for their faults."""
    runtime = runtime_of(request)
    found = runtime.registry.task(task)
    runtime.service.faulty.lift(found.versions)
    runtime.service.verifier.lift(found.versions)
    await in_thread(runtime.threads.admin, runtime.registry.audit.add, "lift", found.name)
    return small_json(summary(runtime, found))


@admin_router.post("/{task}/pin", response_model=TaskBody)
async def pin(task: str, request: Request) -> Response:
    """Keeps the task's adapter in a slot."""
    runtime = runtime_of(request)
    check_not_base(task)
    return small_json(details(runtime, await runtime.configure(task, {"pinned": True})))


@admin_router.post("/{task}/unpin", response_model=TaskBody)
async def unpin(task: str, request: Request) -> Response:
    """Lets the task's adapter be evicted again."""
    runtime = runtime_of(request)
    check_not_base(task)
    return small_json(details(runtime, await runtime.configure(task, {"pinned": False})))
