"""Tasks, versions and aliases as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from manyhats.api.rollouts import rollouts_body
from manyhats.core.history import history_of
from manyhats.errors import InvalidRequest
from manyhats.registry.names import STABLE
from manyhats.registry.records import Task, TaskSettings, Version
from manyhats.runtime import Runtime


def summary(runtime: Runtime, task: Task, version: Version | None = None) -> dict[str, Any]:
    """A task as it stands in the list: of `version`, or of the one that `stable` points at (the largest of a split)."""
    version = version or task.stable
    if version is None:
        empty = {"name": task.name, "kind": None, "method": None, "version": None, "residency": "disk", "bytes": 0}
        return empty | ({"quarantined": task.lost[STABLE], "damaged": True} if STABLE in task.lost else {})
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
    lost = {"quarantined": "; ".join(task.lost.values()), "damaged": True} if task.lost else {}
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
        **rollouts_body(runtime, task),
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


def version_ref(version: Version) -> dict[str, Any]:
    """Which version something is about."""
    return {"version": version.number, "sha256": version.sha256}


def uploaded_body(runtime: Runtime, version: Version) -> dict[str, Any]:
    """The answer to an upload. `kind`: what the task answers with this version, which its settings may say."""
    task = runtime.registry.task(version.task)
    body = {"task": task.name, **version_fields(version), "kind": task.settings_for(version).kind}
    body["aliases"] = aliases_body(task)
    body |= {"warnings": list(version.info.warnings)} if version.info.warnings else {}
    return body | _curves_body(version)


def version_fields(version: Version) -> dict[str, Any]:
    """What is known of a version's adapter."""
    return version_ref(version) | {
        "method": version.info.method,
        "kind": version.info.kind,
        "rank": version.info.rank,
        "matched_tensors": version.info.matched_tensors,
        "bytes": version.info.bytes,
    }


def version_body(runtime: Runtime, version: Version) -> dict[str, Any]:
    """One version."""
    return (
        version_fields(version)
        | {
            "base": version.info.base,
            "created": version.created,
            "warnings": list(version.info.warnings),
            "card": version.info.card,
        }
        | evaluation_body(version)
        | _quarantine_body(runtime, version)
    )


def evaluation_body(version: Version) -> dict[str, Any]:
    """How good it was on labelled examples, where it was evaluated."""
    return {} if version.evaluation is None else {"evaluation": asdict(version.evaluation)}


def whole_version_body(runtime: Runtime, version: Version) -> dict[str, Any]:
    """One version by itself, with the curves of its training where its card has them."""
    return version_body(runtime, version) | _curves_body(version)


def _curves_body(version: Version) -> dict[str, Any]:
    try:
        found = history_of(version.info.card)
    except InvalidRequest:  # the version's warnings say so
        return {}
    return {} if found is None else {"curves": found.model_dump()}


def _quarantine_body(runtime: Runtime, version: Version) -> dict[str, Any]:
    """Why the version is not asked, or shares no batch, where that is so."""
    damage = runtime.registry.quarantine.of(version)
    reason = damage or runtime.service.faulty.of(version)
    alone = runtime.service.verifier.of(version)
    body = {} if reason is None else {"quarantined": reason, "damaged": damage is not None}
    return body | ({} if alone is None else {"alone": alone})


def aliases_body(task: Task) -> dict[str, Any]:
    """Each alias with its version, or its split; `stable` first."""
    return {
        alias: targets[0].version
        if len(targets) == 1
        else [{"version": target.version, "weight": target.weight} for target in targets]
        for alias, targets in sorted(task.aliases.items(), key=lambda item: (item[0] != STABLE, item[0]))
    }
