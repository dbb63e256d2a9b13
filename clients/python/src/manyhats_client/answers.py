"""Answers to questions, as pydantic models.

Fields that a newer server adds are kept and can be read as attributes. An answer's `kind` says which model its outputs
have; a kind that this client does not know becomes an OtherAnswer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from manyhats_client.libraries import numpy
from manyhats_client.models import ErrorBody, InputWarning, Model, Reply
from manyhats_client.outputs import (
    ClassifyOutput,
    EmbedOutput,
    FillOutput,
    GenerateOutput,
    RegressOutput,
    RerankOutput,
    SpanOutput,
    TokensOutput,
)
from manyhats_client.tables import to_pandas

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class Failure(Reply):
    """What stands in the place of a question that failed; `exception_of` makes it an exception."""

    task: str | None = None
    error: ErrorBody


class Usage(Model):
    """Tokens read and written."""

    input_tokens: int = 0
    output_tokens: int = 0


class Timing(Model):
    """Milliseconds spent waiting, loading the adapter, and computing."""

    queue_ms: float = 0.0
    load_ms: float = 0.0
    compute_ms: float = 0.0


class Batch(Model):
    """The batch that the request was part of."""

    id: int | str
    sequences: int
    tasks: int | list[str]
    methods: list[str]


class Answer(Reply):
    """What every answer to a question has; `outputs` has one item for each input."""

    id: str
    task: str
    version: int | None
    sha256: str | None
    usage: Usage = Field(default_factory=Usage)
    timing: Timing = Field(default_factory=Timing)
    warnings: list[InputWarning] = Field(default_factory=list)
    batch: Batch | None = None

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row for each output (of `tokens`: for each token); `input` is the input's index."""
        return to_pandas([self])


class ClassifyAnswer(Answer):
    """Of a task that classifies texts."""

    kind: Literal["classify"]
    outputs: list[ClassifyOutput]

    def numpy(self) -> NDArray[np.float32]:
        """The logits, (inputs, labels) in float32. Raises ValueError where they were not asked for."""
        array: NDArray[np.float32] = numpy("numpy()").stack([output.numpy() for output in self.outputs])
        return array


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

    def numpy(self) -> NDArray[np.float32]:
        """The vectors, (inputs, dimension) in float32.

        Raises ValueError for texts of several lengths with a vector for every token; each output has its own `numpy()`.
        """
        array: NDArray[np.float32] = numpy("numpy()").stack([output.numpy() for output in self.outputs])
        return array


class GenerateAnswer(Answer):
    """Of a task that writes text."""

    kind: Literal["generate"]
    outputs: list[GenerateOutput]

    @property
    def text(self) -> str:
        """The first text."""
        return self.outputs[0].text


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


class Results(Reply):
    """The answer to many questions, in the order asked."""

    results: list[Result]
