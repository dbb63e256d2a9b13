"""What one output is by the task's kind, for /openapi.json."""

from __future__ import annotations

from typing import Literal

from manyhats.api.schemas import AnswerBody


class ClassifyOutput(AnswerBody):
    """Of kind `classify`: the best label and the labels' scores. `labels`: with `multi_label`, those from 0.5 on."""

    label: str
    score: float
    scores: dict[str, float]
    labels: list[str] | None = None
    logits: list[float] | None = None


class LabelledToken(AnswerBody):
    """A token and its best label."""

    text: str
    start: int
    end: int
    label: str
    score: float


class OutputEntity(AnswerBody):
    """Tokens that belong together."""

    entity_group: str
    word: str
    start: int
    end: int
    score: float


class TokensOutput(AnswerBody):
    """Of kind `tokens`. `logits`: of every input token, special tokens included."""

    tokens: list[LabelledToken]
    entities: list[OutputEntity]
    logits: list[list[float]] | None = None


class RegressOutput(AnswerBody):
    """Of kind `regress`."""

    value: float


class RerankOutput(AnswerBody):
    """Of kind `rerank`: how relevant a document is to a query."""

    score: float


class FoundSpan(AnswerBody):
    """An answer within a context."""

    answer: str
    start: int
    end: int
    score: float


class SpanOutput(FoundSpan):
    """Of kind `span`: the best answer. `answers`: with `top_k`, the best ones."""

    answers: list[FoundSpan] | None = None
    logits: list[list[float]] | None = None


class EmbedOutput(AnswerBody):
    """Of kind `embed`: a vector; with `pooling: none` one for each token."""

    embedding: list[float] | list[list[float]]


class Fill(AnswerBody):
    """A token in a mask's place."""

    text: str
    token: int
    score: float


class FilledMask(AnswerBody):
    """A mask's place in the text, and its likeliest tokens."""

    start: int
    end: int
    fills: list[Fill]


class FillOutput(AnswerBody):
    """Of kind `fill`: the text with the likeliest token in each mask's place."""

    text: str
    masks: list[FilledMask]


class LikelyToken(AnswerBody):
    """A token that could have stood in one's place."""

    token: int
    text: str
    logprob: float | None


class TokenLogprob(LikelyToken):
    """A token with its logprob, and the likeliest in its place. `rank`: of a prompt's token."""

    top: list[LikelyToken]
    rank: int | None = None


class GeneratedOutput(AnswerBody):
    """A text. `tokens`: the new ones."""

    text: str
    finish_reason: Literal["stop", "length"] | None
    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None


class GenerateOutput(GeneratedOutput):
    """Of kind `generate`. `choices`: where `n` texts are requested, all of them."""

    choices: list[GeneratedOutput] | None = None


CLASSIFIED = {"label": "spam", "score": 0.9, "scores": {"ham": 0.1, "spam": 0.9}}  # of examples
