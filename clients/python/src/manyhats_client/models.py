"""What the server says of tasks, versions and errors, as pydantic models.

Fields that a newer server adds are kept and can be read as attributes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """Base of all answers: unknown fields are kept."""

    model_config = ConfigDict(extra="allow")


class Reply(Model):
    """Base of what one request is answered with. `request_id`: its `X-Request-Id`, as the server's log has it."""

    request_id: str | None = Field(default=None, exclude=True)


# ---- errors and warnings


class ErrorBody(Model):
    """The fields of an error."""

    message: str
    type: str = "UnknownError"
    param: str | None = None
    code: int | str | None = None


class ErrorEnvelope(Model):
    """The body of every error."""

    error: ErrorBody


class InputWarning(Model):
    """A warning about one input, such as that it was truncated; `input` is its index."""

    input: int | None = None
    code: str | None = None
    message: str


Notice = InputWarning  # its name before


# ---- tasks


class Target(Model):
    """One version of an alias's split."""

    version: int
    weight: float


class Evaluation(Model):
    """How good a version was on labelled examples beside the stable one. `activated`: whether `alias` points at it
    since; `reason`: why, or why not."""

    metric: str
    value: float | None = None
    baseline: float | None = None
    baseline_version: int | None = None
    examples: int
    max_drop: float
    alias: str
    activated: bool
    reason: str
    created: datetime | None = None


class Rollout(Model):
    """What an alias has besides its versions, and what was counted of it."""

    affinity: str | None = None
    since: datetime | None = None
    shadow: dict[str, Any] | None = None
    canary: dict[str, Any] | None = None
    withdrawn: dict[str, Any] | None = None


class Alias(Rollout, Reply):
    """An alias. `version`: the one that it points at, the largest of a `split`."""

    task: str
    alias: str
    version: int
    split: list[Target] | None = None


class OriginFile(Model):
    """A file as its source had it. `etag`: what the source says of its content."""

    name: str
    bytes: int
    etag: str = ""


class Origin(Model):
    """Where a version's files came from. `kind`: hub, s3 or folder. `commit`: what the `revision` of a hub was."""

    kind: str
    id: str
    revision: str | None = None
    commit: str | None = None
    files: list[OriginFile] = Field(default_factory=list)


class Version(Reply):
    """One version of a task's adapter. `source`: where its files came from, where the server has fetched them."""

    version: int
    sha256: str
    method: str
    kind: str
    bytes: int
    created: datetime | None = None
    card: Any = None
    evaluation: Evaluation | None = None
    source: Origin | None = None


class Task(Model):
    """A task as the list shows it; `kind`, `method` and `version` are those of `stable`."""

    name: str
    kind: str | None = None
    method: str | None = None
    version: int | None = None
    residency: str | None = None
    bytes: int | None = None


class TaskDetails(Task, Reply):
    """A task with its versions, aliases and settings."""

    versions: list[Version] = Field(default_factory=list)
    aliases: dict[str, int | list[Target]] = Field(default_factory=dict)
    labels: list[str] | None = None
    template: Any = None
    max_tokens: int | None = None
    rollouts: dict[str, Rollout] = Field(default_factory=dict)


class TaskPage(Reply):
    """One page of the list of tasks."""

    data: list[Task]
    next_page_token: str | None = None


class AuditEntry(Model):
    """One change: who made it, and from which versions to which. `actor`: the name of a key, or what of the server did
    it; None where no key was needed. `version`: what was made or deleted."""

    id: int
    time: datetime
    actor: str | None = None
    tenant: str | None = None
    request_id: str | None = None
    action: str
    task: str | None = None
    alias: str | None = None
    version: int | None = None
    from_versions: list[Target] = Field(default_factory=list)
    to_versions: list[Target] = Field(default_factory=list)
    detail: str | None = None


class AuditPage(Reply):
    """One page of the audit log."""

    data: list[AuditEntry]
    next_page_token: str | None = None


class Upload(Reply):
    """What the server made of an upload. `new` is false where a version already held the same bytes. `activated` and
    `evaluation` are there after an upload with labelled examples."""

    task: str
    version: int
    sha256: str
    method: str
    kind: str
    rank: Any = None
    matched_tensors: int | None = None
    bytes: int
    aliases: list[str] | dict[str, int | list[Target]] = Field(default_factory=list)
    warnings: list[InputWarning | str] = Field(default_factory=list)
    activated: bool | None = None
    evaluation: Evaluation | None = None
    source: Origin | None = None
    new: bool = True


# ---- the server


class Health(Reply):
    """The process lives."""

    status: str
