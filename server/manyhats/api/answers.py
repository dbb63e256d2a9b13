"""Our own routes' answers, for /openapi.json: `/v1/tasks` and `/v1/imports`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from manyhats._version import __version__
from manyhats.api.rollout_answers import EvaluationBody, RolloutState
from manyhats.api.schemas import AnswerBody
from manyhats.core.history import TrainingHistory

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def examples(*bodies: Any) -> ConfigDict:
    """What a model shows."""
    return ConfigDict(json_schema_extra={"examples": list(bodies)})


# ---- tasks


class VersionRef(AnswerBody):
    """A version's number, and the digest of its contents."""

    version: int
    sha256: str


class VersionFields(VersionRef):
    """What is known of a version's adapter. `bytes`: of its weights."""

    method: str
    kind: str
    rank: int | None
    matched_tensors: int
    bytes: int


_VERSION: dict[str, Any] = {
    "version": 3,
    "sha256": SHA256,
    "method": "lora",
    "kind": "classify",
    "rank": 8,
    "matched_tensors": 24,
    "bytes": 294912,
}
_KEPT: dict[str, Any] = _VERSION | {
    "base": "sentence-transformers/all-MiniLM-L6-v2",
    "created": 1760000000.0,
    "warnings": [],
    "card": None,
}


class TaskVersion(VersionFields):
    """One version. `created`: unix seconds. `card`: its README.md; `curves`: of its training, where the card has them,
    of a version asked for by itself. `quarantined`: why it is not asked; `damaged`: whether its files are the reason,
    else its faults, which `lift` forgets; `alone`: why it shares no batch. `evaluation`: on labelled examples."""

    model_config = examples(_KEPT)

    base: str | None
    created: float
    warnings: list[str]
    card: str | None
    curves: TrainingHistory | None = None
    quarantined: str | None = None
    damaged: bool | None = None
    evaluation: EvaluationBody | None = None
    alone: str | None = None


class AliasTarget(AnswerBody):
    """One version of a split, and its share of the requests."""

    version: int
    weight: float


Aliases = dict[str, int | list[AliasTarget]]


class UploadedBody(VersionFields):
    """The version that holds what was uploaded. `kind`: what the task answers with it. `curves`: of its training, where
    its card has them. `activated`, `evaluation`: of an upload with labelled examples."""

    model_config = examples({"task": "spam", **_VERSION, "aliases": {"stable": 3}})

    task: str
    aliases: Aliases
    warnings: list[str] | None = None
    curves: TrainingHistory | None = None
    activated: bool | None = None
    evaluation: EvaluationBody | None = None


class TaskSummary(AnswerBody):
    """A task as the list has it; without a version, `kind`, `method` and `version` are null. `quarantined`, `damaged`
    and `alone` are as a version has them."""

    model_config = examples(
        {
            "name": "spam",
            "kind": "classify",
            "method": "lora",
            "version": 3,
            "residency": "slot",
            "bytes": 294912,
        }
    )

    name: str
    kind: str | None
    method: str | None
    version: int | None
    residency: Literal["disk", "memory", "slot"]
    bytes: int
    quarantined: str | None = None
    damaged: bool | None = None
    alone: str | None = None


class TaskList(AnswerBody):
    """A page of the tasks; `next_page_token` is null on the last."""

    model_config = examples(
        {
            "data": [
                {
                    "name": "spam",
                    "kind": "classify",
                    "method": "lora",
                    "version": 3,
                    "residency": "slot",
                    "bytes": 294912,
                }
            ],
            "next_page_token": None,
        }
    )

    data: list[TaskSummary]
    next_page_token: str | None


class TaskBody(TaskSummary):
    """A task with everything that is known about it. The bare backbone, `base`, has no settings that a task has
    besides; `sha256`, `backbone`, `kinds` and `chats` are its alone. `kinds`: those that it answers. `chats`: whether
    its tokenizer has a chat template, for tasks without one of their own. `rollouts`: of the aliases that have more
    than versions."""

    model_config = examples(
        {
            "name": "spam",
            "kind": "classify",
            "method": "lora",
            "version": 3,
            "residency": "slot",
            "bytes": 294912,
            "versions": [_KEPT],
            "aliases": {"stable": 3, "canary": [{"version": 2, "weight": 90.0}, {"version": 3, "weight": 10.0}]},
            "labels": ["ham", "spam"],
            "template": None,
            "chat_template": None,
            "system_prompt": None,
            "stop_token_ids": [],
            "max_tokens": 512,
            "overflow": "error",
            "pooling": None,
            "normalize": None,
            "prompts": None,
            "default_prompt_name": None,
            "include_prompt": None,
            "lower_case": None,
            "defaults": {},
            "priority": 0,
            "pinned": False,
            "warnings": [],
            "created": 1750000000.0,
        }
    )

    versions: list[TaskVersion]
    aliases: Aliases
    labels: list[str] | None
    template: str | None
    max_tokens: int
    overflow: Literal["error", "truncate"]
    pooling: str | list[str] | None
    normalize: bool | None
    prompts: dict[str, str] | None
    default_prompt_name: str | None
    include_prompt: bool | None
    lower_case: bool | None
    chat_template: str | None = None
    system_prompt: str | None = None
    stop_token_ids: list[int] | None = None
    defaults: dict[str, Any] | None = None
    priority: int | None = None
    pinned: bool | None = None
    warnings: list[str] | None = None
    created: float | None = None
    sha256: str | None = None
    backbone: str | None = None
    kinds: list[str] | None = None
    chats: bool | None = None
    rollouts: dict[str, RolloutState] | None = None


# ---- imports and the server


class ImportBody(AnswerBody):
    """A folder in the store. `reason`: why it waits or was refused, or what the reader warns of."""

    folder: str
    status: Literal["taken_in", "waiting", "refused"]
    task: str | None
    version: int | None
    reason: str | None


class ImportList(AnswerBody):
    """A page of the folders; `next_page_token` is null on the last."""

    model_config = examples(
        {
            "data": [{"folder": "spam", "status": "taken_in", "task": "spam", "version": 1, "reason": None}],
            "next_page_token": None,
        }
    )

    data: list[ImportBody]
    next_page_token: str | None


class Alive(AnswerBody):
    """The process lives."""

    model_config = examples({"status": "ok"})

    status: Literal["ok"]


class ReadyBody(AnswerBody):
    """It can answer now."""

    model_config = examples({"status": "ready", "backbone": "all-MiniLM-L6-v2", "version": __version__})

    status: Literal["ready"]
    backbone: str
    version: str
