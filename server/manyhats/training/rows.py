"""What one row of a task's data must hold, by the task's kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from manyhats.messages import first_error

TaskKind = Literal["classify", "multilabel", "regress", "tokens", "span", "embed", "generate"]

# Of these every row has one of a set of labels, several, or a tag for every word.
LABELLED: tuple[TaskKind, ...] = ("classify", "multilabel", "tokens")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of the files holds what. None: the kind's own default, or no such column."""

    text: str = "text"
    label: str = "label"
    text_pair: str | None = None
    tokens: str = "tokens"
    tags: str = "tags"
    start: str = "answer_start"

    def of(self, kind: TaskKind) -> dict[str, str]:
        """Our name of each field that this kind needs, and the column's name."""
        match kind:
            case "tokens":
                return {"words": self.tokens, "target": self.tags}
            case "span":
                return {"text": self.text, "pair": self.text_pair or "context", "target": self.label}
            case "embed":
                return {"text": self.text, "pair": self.text_pair or "pair"}
        pair = {} if self.text_pair is None else {"pair": self.text_pair}
        return {"text": self.text, **pair, "target": self.label}

    def optional(self, kind: TaskKind) -> dict[str, str]:
        """Those that a row may have."""
        return {"start": self.start} if kind == "span" else {}


@dataclass(frozen=True, slots=True)
class Place:
    """The characters of an answer within its context."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled input: a text (or a pair of them) with a label, labels, a number, a text or a place in the pair; or
    words with a tag each; or two texts that belong together, with nothing."""

    text: str
    pair: str | None
    words: tuple[str, ...]
    target: str | float | tuple[str, ...] | Place

    @property
    def input(self) -> tuple[str, str | None, tuple[str, ...]]:
        """What two examples have in common when one is a duplicate of the other."""
        return self.text, self.pair, self.words


def _label(value: Any) -> Any:
    """A label may be written as a number or a truth value."""
    if isinstance(value, bool | int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else value


def _list(value: Any) -> Any:
    """A list of words, or one text with spaces between them."""
    return value.split() if isinstance(value, str) else value


def _labels(value: Any) -> Any:
    """A list of labels, or one text with commas between them; empty for none."""
    return [part for part in map(str.strip, value.split(",")) if part] if isinstance(value, str) else value


_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
_Label = Annotated[_Text, Field(max_length=1000), BeforeValidator(_label)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    text: _Text
    pair: _Text | None = None

    def example(self) -> Example:
        """The row, checked."""
        target = getattr(self, "target", "")
        return Example(self.text, self.pair, (), tuple(target) if isinstance(target, list) else target)


class _ClassRow(_Row):
    target: _Label


class _LabelsRow(_Row):
    target: Annotated[list[_Label], BeforeValidator(_labels)]


class _NumberRow(_Row):
    target: float = Field(allow_inf_nan=False)


class _AnswerRow(_Row):
    target: _Text


class _PairRow(_Row):
    pair: _Text


class _SpanRow(_Row):
    """`target`: the answer's text, or SQuAD's `{"text": [...], "answer_start": [...]}`, of which the first counts."""

    pair: _Text
    target: _Text
    start: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _first(cls, data: Any) -> Any:
        told = data.get("target")
        if isinstance(told, Mapping) and told.get("text") and told.get("answer_start") is not None:
            return data | {"target": told["text"][0], "start": told["answer_start"][0]}
        return data

    @model_validator(mode="after")
    def _stands_there(self) -> _SpanRow:
        if self.start is None and self.pair.count(self.target) != 1:
            count = self.pair.count(self.target)
            raise ValueError(
                f"the answer {self.target[:60]!r} stands {count} times in its context; say where it starts"
                if count
                else f"the answer {self.target[:60]!r} does not stand in its context"
            )
        if self.start is not None and self.pair[max(self.start, 0) :][: len(self.target)] != self.target:
            raise ValueError(f"the answer {self.target[:60]!r} does not stand at {self.start} of its context")
        return self

    def example(self) -> Example:
        start = self.pair.index(self.target) if self.start is None else self.start
        return Example(self.text, self.pair, (), Place(start, start + len(self.target)))


class _TaggedRow(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    words: Annotated[list[_Text], BeforeValidator(_list), Field(min_length=1)]
    target: Annotated[list[_Label], BeforeValidator(_list)]

    @model_validator(mode="after")
    def _same_length(self) -> _TaggedRow:
        if len(self.words) != len(self.target):
            raise ValueError(f"there are {len(self.words)} words, but {len(self.target)} tags")
        return self

    def example(self) -> Example:
        """The row, checked."""
        return Example("", None, tuple(self.words), tuple(self.target))


_MODELS: dict[TaskKind, type[_Row] | type[_TaggedRow]] = {
    "classify": _ClassRow,
    "multilabel": _LabelsRow,
    "regress": _NumberRow,
    "tokens": _TaggedRow,
    "span": _SpanRow,
    "embed": _PairRow,
    "generate": _AnswerRow,
}


def example_of(record: Mapping[Any, Any], kind: TaskKind, columns: Columns) -> Example:
    """A record of a file as an example. Raises ValueError with the reason, naming the column."""
    wanted = columns.of(kind)
    given = {ours: record[theirs] for ours, theirs in wanted.items()}
    given |= {ours: record[theirs] for ours, theirs in columns.optional(kind).items() if theirs in record}
    try:
        return _MODELS[kind].model_validate(given).example()
    except ValidationError as error:
        raise ValueError(_reason(error, wanted)) from None


def _reason(error: ValidationError, wanted: dict[str, str]) -> str:
    first = first_error(error, with_input=True)
    told = first.reason
    if first.type in ("string_too_short", "string_pattern_mismatch", "too_short"):
        told = "is empty"
    if not first.location:
        return told
    place = wanted.get(str(first.location[0]), str(first.location[0]))
    return f"column '{place}' {told}" if told == "is empty" else f"column '{place}': {told} (got {first.input!r:.60})"
