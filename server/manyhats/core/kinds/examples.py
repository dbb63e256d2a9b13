"""Examples of a task: a checked row of its data, and the same as tokens with a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from manyhats.backbone import Text

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# The target of tokens that are not judged: special tokens, and all but the first token of a word.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the files' columns. None: the kind's default, or no such column."""

    text: str = "text"
    label: str = "label"
    text_pair: str | None = None
    tokens: str = "tokens"
    tags: str = "tags"
    start: str = "answer_start"


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """The characters of an answer within its context."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled input: a text (or a pair of them) with a label, labels, a number, a text or a span of the pair; or
    words with a tag each; or a pair of texts, without a label."""

    text: str
    pair: str | None
    words: tuple[str, ...]
    target: str | float | tuple[str, ...] | AnswerSpan

    @property
    def input(self) -> tuple[str, str | None, tuple[str, ...]]:
        """The input, which duplicates have in common."""
        return self.text, self.pair, self.words


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One example as tokens. `target`: the class's index, the number, or an index (or IGNORED) for every token; for
    `multilabel` a 0 or 1 for every label, for `span` the first and the last token of the answer.

    For `generate` the ids are prompt and answer, and `target` the answer's tokens. `label_positions`: the positions
    whose outputs are compared with them, each of the token before the one to be predicted. `context`: for `span` the
    tokens that may hold the answer. `other`: for `embed` the pair's second text.
    """

    ids: list[int]
    type_ids: list[int]
    target: int | float | list[int]
    truncated: bool  # whether tokens were truncated
    label_positions: tuple[int, ...] = ()
    context: slice = field(default_factory=lambda: slice(0))
    other: EncodedExample | None = None

    @property
    def size(self) -> int:
        """The number of tokens in a batch."""
        return len(self.ids) + (0 if self.other is None else len(self.other.ids))


def _label_text(value: Any) -> Any:
    """A label may be written as a number or a truth value."""
    if isinstance(value, bool | int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else value


NonEmptyText = Annotated[str, Field(min_length=1, pattern=r"\S")]
Label = Annotated[NonEmptyText, Field(max_length=1000), BeforeValidator(_label_text)]


class DataRow(BaseModel, ABC):
    """The fields of a row of data, by our names for them (see `KindTraining.columns`)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @abstractmethod
    def example(self) -> Example:
        """The row, checked."""


class TextRow(DataRow):
    """A row with a text, or a pair of them."""

    text: NonEmptyText
    pair: NonEmptyText | None = None


def encode_texts(
    examples: Sequence[Example], targets: Sequence[int | float | list[int]], backbone: Backbone, max_tokens: int
) -> list[EncodedExample]:
    """Tokenised texts, or pairs of them, each with a target."""
    encoded = backbone.tokenizer.encode([Text(e.text, e.pair) for e in examples], max_tokens)
    return [
        EncodedExample(e.ids, e.type_ids, target, e.full_length > len(e.ids))
        for e, target in zip(encoded, targets, strict=True)
    ]
