"""One output of each kind of task, and what numpy makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from manyhats_client.choices import FinishReason
from manyhats_client.libraries import numpy
from manyhats_client.models import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ClassifyOutput(Model):
    """The best label, and every label's score. `labels`: with `multi_label`, those from 0.5 on."""

    label: str
    score: float
    scores: dict[str, float]
    logits: list[float] | None = None
    labels: list[str] | None = None

    def numpy(self) -> NDArray[np.float32]:
        """The logits, by the labels' indices, in float32. Raises ValueError where they were not asked for."""
        return _logits(self.logits)


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

    def numpy(self) -> NDArray[np.float32]:
        """The logits, (tokens, labels) in float32. Raises ValueError where they were not asked for."""
        return _logits(self.logits)


class RegressOutput(Model):
    """A number."""

    value: float


class RerankOutput(Model):
    """How well a document answers a query."""

    score: float


class FoundSpan(Model):
    """A part of the context."""

    answer: str
    start: int | None
    end: int | None
    score: float


class SpanOutput(FoundSpan):
    """The best part of the context. `answers`: with `top_k`, the best ones."""

    answers: list[FoundSpan] | None = None


class EmbedOutput(Model):
    """A vector; one vector for every token where `pooling` is `none`."""

    embedding: list[float] | list[list[float]]

    def numpy(self) -> NDArray[np.float32]:
        """The vector, or one for every token, (tokens, dimension), in float32."""
        return _float32(self.embedding)


class LikelyToken(Model):
    """A token that could have stood in one's place."""

    token: int
    text: str
    logprob: float | None


class TokenLogprob(LikelyToken):
    """A token with its log probability, and the likeliest in its place. `rank`: of a prompt's token."""

    top: list[LikelyToken] = Field(default_factory=list)
    rank: int | None = None


class GeneratedText(Model):
    """New text; `tokens` are the new token ids."""

    text: str
    finish_reason: FinishReason | str | None
    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None


class GenerateOutput(GeneratedText):
    """New text. `choices`: where `n` texts were asked for, all of them."""

    choices: list[GeneratedText] | None = None


class GenerateEvent(Model):
    """What one token adds to the text for `input`, of which `choice` says which one where there are several."""

    input: int
    text: str
    tokens: list[int]
    finish_reason: FinishReason | str | None = None
    choice: int | None = None
    logprobs: list[TokenLogprob] | None = None


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


Output = (
    ClassifyOutput
    | TokensOutput
    | RegressOutput
    | RerankOutput
    | SpanOutput
    | EmbedOutput
    | GenerateOutput
    | FillOutput
)
"""Of a kind that this client knows; of another one it is as the server wrote it."""


def _float32(values: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = numpy("numpy()").asarray(values, dtype="float32")
    return array


def _logits(values: Any) -> NDArray[np.float32]:
    if values is None:
        raise ValueError("this answer has no logits; ask with logits=True")
    return _float32(values)
