"""What the server answers, as pydantic models.

Fields that a newer server adds are kept and can be read as attributes. An answer's `kind` says which
model its outputs have; a kind that this client does not know becomes an OtherAnswer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class Model(BaseModel):
    """Base of all answers: unknown fields are kept."""

    model_config = ConfigDict(extra="allow")


# ---- errors


class ErrorBody(Model):
    """The fields of an error."""

    message: str
    type: str = "UnknownError"
    param: str | None = None
    code: int | str | None = None


class ErrorEnvelope(Model):
    """The body of every error."""

    error: ErrorBody


class Failure(Model):
    """What stands in the place of a question that failed; `exception_of` makes it an exception."""

    task: str | None = None
    error: ErrorBody


# ---- one output of each kind


class ClassifyOutput(Model):
    """The best label, and every label's score."""

    label: str
    score: float
    scores: dict[str, float]
    logits: list[float] | None = None


class Token(Model):
    """A token with its label; `start` and `end` count characters of the text."""

    text: str
    start: int
    end: int
    label: str
    score: float


class Entity(Model):
    """Neighbouring tokens of one entity."""

    entity_group: str
    word: str
    start: int
    end: int
    score: float


class TokensOutput(Model):
    """Every token's label, and the entities. `logits` counts special tokens too."""

    tokens: list[Token]
    entities: list[Entity]
    logits: list[list[float]] | None = None


class RegressOutput(Model):
    """A number."""

    value: float


class RerankOutput(Model):
    """How well a document answers a query."""

    score: float


class SpanOutput(Model):
    """A part of the context."""

    answer: str
    start: int | None
    end: int | None
    score: float


class EmbedOutput(Model):
    """A vector; one vector for every token where `pooling` is `none`."""

    embedding: list[float] | list[list[float]]


class GenerateOutput(Model):
    """New text; `tokens` are the new token ids."""

    text: str
    finish_reason: str | None
    tokens: list[int]


class Fill(Model):
    """One token for a mask, with its probability."""

    text: str
    token: int
    score: float


class FilledMask(Model):
    """A mask token's place in the text, and what may stand there, the likeliest first."""

    start: int
    end: int
    fills: list[Fill]


class FillOutput(Model):
    """The text with the likeliest token in each mask's place, and each mask by itself."""

    text: str
    masks: list[FilledMask]


# ---- answers


class Usage(Model):
    """Tokens read and written."""

    input_tokens: int = 0
    output_tokens: int = 0


class Timing(Model):
    """Milliseconds spent waiting, loading the adapter, and computing."""

    queue_ms: float = 0.0
    load_ms: float = 0.0
    compute_ms: float = 0.0


class InputWarning(Model):
    """A warning about one input, such as that it was truncated; `input` is its index."""

    input: int | None = None
    code: str | None = None
    message: str


Notice = InputWarning  # its name before


class Batch(Model):
    """The batch that the request was part of."""

    id: int | str
    sequences: int
    tasks: int | list[str]
    methods: list[str]


class Answer(Model):
    """What every answer to a question has; `outputs` has one item for each input."""

    id: str
    task: str
    version: int | None
    sha256: str | None
    usage: Usage = Field(default_factory=Usage)
    timing: Timing = Field(default_factory=Timing)
    warnings: list[InputWarning] = Field(default_factory=list)
    batch: Batch | None = None


class ClassifyAnswer(Answer):
    """Of a task that classifies texts."""

    kind: Literal["classify"]
    outputs: list[ClassifyOutput]


class TokensAnswer(Answer):
    """Of a task that labels tokens."""

    kind: Literal["tokens"]
    outputs: list[TokensOutput]


class RegressAnswer(Answer):
    """Of a task that gives a number."""

    kind: Literal["regress"]
    outputs: list[RegressOutput]


class RerankAnswer(Answer):
    """Of a task that scores documents by a query."""

    kind: Literal["rerank"]
    outputs: list[RerankOutput]


class SpanAnswer(Answer):
    """Of a task that finds a part of a context."""

    kind: Literal["span"]
    outputs: list[SpanOutput]


class EmbedAnswer(Answer):
    """Of a task that gives vectors."""

    kind: Literal["embed"]
    outputs: list[EmbedOutput]


class GenerateAnswer(Answer):
    """Of a task that writes text."""

    kind: Literal["generate"]
    outputs: list[GenerateOutput]


class FillAnswer(Answer):
    """Of a task that fills masks."""

    kind: Literal["fill"]
    outputs: list[FillOutput]


class OtherAnswer(Answer):
    """Of a kind that this client does not know."""

    kind: str
    outputs: list[Any]


_KINDS = ("classify", "tokens", "regress", "rerank", "span", "embed", "generate", "fill")


def _tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return kind if kind in _KINDS else "other"


def _result_tag(value: Any) -> str:
    error = value.get("error") if isinstance(value, Mapping) else getattr(value, "error", None)
    return "answer" if error is None else "failure"


Prediction = Annotated[
    Annotated[ClassifyAnswer, Tag("classify")]
    | Annotated[TokensAnswer, Tag("tokens")]
    | Annotated[RegressAnswer, Tag("regress")]
    | Annotated[RerankAnswer, Tag("rerank")]
    | Annotated[SpanAnswer, Tag("span")]
    | Annotated[EmbedAnswer, Tag("embed")]
    | Annotated[GenerateAnswer, Tag("generate")]
    | Annotated[FillAnswer, Tag("fill")]
    | Annotated[OtherAnswer, Tag("other")],
    Discriminator(_tag),
]

Result = Annotated[
    Annotated[Prediction, Tag("answer")] | Annotated[Failure, Tag("failure")],
    Discriminator(_result_tag),
]


class Results(Model):
    """The answer to many questions, in the order asked."""

    results: list[Result]


# ---- tasks


class Target(Model):
    """One version of an alias's split."""

    version: int
    weight: float


class Version(Model):
    """One version of a task's adapter."""

    version: int
    sha256: str
    method: str
    kind: str
    bytes: int
    created: datetime | None = None
    card: Any = None


class Task(Model):
    """A task as the list shows it; `kind`, `method` and `version` are those of `stable`."""

    name: str
    kind: str | None = None
    method: str | None = None
    version: int | None = None
    residency: str | None = None
    bytes: int | None = None


class TaskDetails(Task):
    """A task with its versions, aliases and settings."""

    versions: list[Version] = Field(default_factory=list)
    aliases: dict[str, int | list[Target]] = Field(default_factory=dict)
    labels: list[str] | None = None
    template: Any = None
    max_tokens: int | None = None


class TaskPage(Model):
    """One page of the list of tasks."""

    data: list[Task]
    next_page_token: str | None = None


class Upload(Model):
    """What the server made of an upload. `new` is false where a version already held the same bytes."""

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
    new: bool = True


# ---- the server


class Health(Model):
    """The process lives."""

    status: str
