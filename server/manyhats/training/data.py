"""Reads labelled data from CSV or JSON lines, checks every row, and splits it.

Columns are named by the caller (`Columns`). A row that cannot be used is an error with its row number; nothing is
left out silently.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from manyhats.errors import InvalidRequest

TaskKind = Literal["classify", "tokens", "regress", "generate"]

# Of these every row has one of a set of labels, or of tags.
_LABELLED: tuple[TaskKind, ...] = ("classify", "tokens")

# The share of the data that is held out where no file for it is given.
HELD_OUT = 0.1

_FIELD_LIMIT = 1 << 24  # characters of one CSV field


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of the files holds what."""

    text: str = "text"
    label: str = "label"
    text_pair: str | None = None
    tokens: str = "tokens"
    tags: str = "tags"

    def of(self, kind: TaskKind) -> dict[str, str]:
        """Our name of each field that this kind needs, and the column's name."""
        if kind == "tokens":
            return {"words": self.tokens, "target": self.tags}
        pair = {} if self.text_pair is None else {"pair": self.text_pair}
        return {"text": self.text, **pair, "target": self.label}


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled input: a text (or a pair of them) with a label or a number, or words with a tag each."""

    text: str
    pair: str | None
    words: tuple[str, ...]
    target: str | float | tuple[str, ...]

    @property
    def input(self) -> tuple[str, str | None, tuple[str, ...]]:
        """What two examples have in common when one is a duplicate of the other."""
        return self.text, self.pair, self.words


@dataclass(frozen=True, slots=True)
class Source:
    """A file that data came from."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training, validation and test data of one task. `labels`: the classes or tags in their order; empty for
    `regress` and `generate`."""

    kind: TaskKind
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    labels: list[str]
    sources: list[Source]
    notes: list[str]  # what a reader of the results should know, as whole sentences


# ---- one row


def _label(value: Any) -> Any:
    """A label may be written as a number or a truth value."""
    if isinstance(value, bool | int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else value


def _list(value: Any) -> Any:
    """A list of words, or one text with spaces between them."""
    return value.split() if isinstance(value, str) else value


_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
_Label = Annotated[_Text, Field(max_length=1000), BeforeValidator(_label)]
_ROW = ConfigDict(extra="ignore", frozen=True)


class _ClassRow(BaseModel):
    model_config = _ROW
    text: _Text
    pair: _Text | None = None
    target: _Label


class _NumberRow(BaseModel):
    model_config = _ROW
    text: _Text
    pair: _Text | None = None
    target: float = Field(allow_inf_nan=False)


class _TaggedRow(BaseModel):
    model_config = _ROW
    words: Annotated[list[_Text], BeforeValidator(_list), Field(min_length=1)]
    target: Annotated[list[_Label], BeforeValidator(_list)]

    @model_validator(mode="after")
    def _same_length(self) -> _TaggedRow:
        if len(self.words) != len(self.target):
            raise ValueError(f"there are {len(self.words)} words, but {len(self.target)} tags")
        return self


class _AnswerRow(BaseModel):
    model_config = _ROW
    text: _Text
    pair: _Text | None = None
    target: _Text


_MODELS: dict[TaskKind, type[BaseModel]] = {
    "classify": _ClassRow,
    "regress": _NumberRow,
    "tokens": _TaggedRow,
    "generate": _AnswerRow,
}


def _example(row: Any) -> Example:
    if isinstance(row, _TaggedRow):
        return Example("", None, tuple(row.words), tuple(row.target))
    return Example(row.text, row.pair, (), row.target)


# ---- one file


def read_examples(path: Path, kind: TaskKind, columns: Columns) -> list[Example]:
    """All rows of a `.csv` or `.jsonl` file. Raises InvalidRequest with the row's number or the columns there are."""
    wanted = columns.of(kind)
    examples: list[Example] = []
    for number, record in _records(path):
        absent = next((column for column in wanted.values() if column not in record), None)
        if absent is not None:
            present = ", ".join(map(str, record)) or "none"
            raise InvalidRequest(
                f"{path.name}, row {number}: there is no column '{absent}'; the columns are: {present}", param=absent
            )
        try:
            row = _MODELS[kind].model_validate({ours: record[theirs] for ours, theirs in wanted.items()})
        except ValidationError as error:
            raise InvalidRequest(f"{path.name}, row {number}: {_reason(error, wanted)}") from None
        examples.append(_example(row))
    if not examples:
        raise InvalidRequest(f"{path.name} has no rows", param="data")
    return examples


def _reason(error: ValidationError, wanted: dict[str, str]) -> str:
    first = error.errors()[0]
    told = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("string_too_short", "string_pattern_mismatch", "too_short"):
        told = "is empty"
    if not first["loc"]:
        return told
    place = wanted.get(str(first["loc"][0]), str(first["loc"][0]))
    return (
        f"column '{place}' {told}" if told == "is empty" else f"column '{place}': {told} (got {first['input']!r:.60})"
    )


def _records(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    """(row number, columns). Rows of JSON lines count as lines, those of CSV without its header."""
    if not path.is_file():
        raise InvalidRequest(f"the data file '{path}' does not exist", param="data")
    match path.suffix.lower():
        case ".csv":
            yield from _csv(path)
        case ".jsonl" | ".ndjson":
            yield from _jsonl(path)
        case ending:
            raise InvalidRequest(
                f"'{path.name}' ends in '{ending}'; data files are .csv (with a header line) or .jsonl", param="data"
            )


def _csv(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    csv.field_size_limit(_FIELD_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, record in enumerate(csv.DictReader(file), start=1):
                if None in record or None in record.values():
                    raise InvalidRequest(f"{path.name}, row {number} has another number of fields than the header")
                yield number, record
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path.name} is not readable as UTF-8 CSV: {error}", param="data") from None


def _jsonl(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InvalidRequest(f"{path.name}, row {number} is not valid JSON: {error}") from None
                if not isinstance(record, dict):
                    raise InvalidRequest(f"{path.name}, row {number} is no JSON object")
                yield number, record
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is not UTF-8: {error}", param="data") from None


def sha256_of(path: Path) -> str:
    """The digest of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- one task


def load(
    kind: TaskKind,
    columns: Columns,
    data: Path,
    validation: Path | None = None,
    test: Path | None = None,
    *,
    seed: int = 0,
) -> Dataset:
    """Reads and checks a task's data; what has no file of its own is split off the training data.

    Raises InvalidRequest for data that nothing can be learned from, or that cannot be judged.
    """
    sources: list[Source] = []

    def read(path: Path) -> list[Example]:
        examples = read_examples(path, kind, columns)
        sources.append(Source(path.name, sha256_of(path), len(examples)))
        return examples

    train = read(data)
    held: dict[str, list[Example]] = {}
    if validation is not None:
        held["validation"] = read(validation)
    if test is not None:
        held["test"] = read(test)
    notes: list[str] = []
    for salt, part in enumerate(("validation", "test")):
        if part not in held:
            train, held[part] = split(train, kind, HELD_OUT, random.Random(f"{seed}/{salt}"))
            notes.append(f"The {part} data is a seeded {HELD_OUT:.0%} of {data.name}.")
            if not train or not held[part]:
                raise InvalidRequest(f"{data.name} has too few rows to split off {part} data", param="data")
    labels = _labels(train, data.name) if kind in _LABELLED else []
    if kind == "regress" and len({example.target for example in train}) < 2:
        raise InvalidRequest(f"every row of {data.name} has the same number; there is nothing to learn", param="data")
    for part, path in (("validation", validation), ("test", test)):
        if kind in _LABELLED:
            _check_known(held[part], set(labels), path.name if path else f"the {part} part of {data.name}")
        notes += _duplicates(train, held[part], part)
    return Dataset(kind, train, held["validation"], held["test"], labels, sources, notes)


def _targets(example: Example) -> tuple[str, ...]:
    return example.target if isinstance(example.target, tuple) else (str(example.target),)


def _labels(train: Sequence[Example], name: str) -> list[str]:
    labels = sorted({label for example in train for label in _targets(example)})
    if len(labels) < 2:
        raise InvalidRequest(
            f"every row of {name} has the label '{labels[0]}'; two classes are needed to learn from", param="data"
        )
    return labels


def _check_known(examples: Sequence[Example], known: set[str], name: str) -> None:
    for number, example in enumerate(examples, start=1):
        strange = next((label for label in _targets(example) if label not in known), None)
        if strange is not None:
            raise InvalidRequest(
                f"{name}, row {number}: the label '{strange}' does not occur in the training data", param="label"
            )


def _duplicates(train: Sequence[Example], held: Sequence[Example], part: str) -> list[str]:
    seen = {example.input for example in train}
    count = sum(example.input in seen for example in held)
    if not count:
        return []
    return [f"{count} of {len(held)} {part} inputs also stand in the training data, which flatters the result."]


def split(
    examples: Sequence[Example], kind: TaskKind, share: float, rng: random.Random
) -> tuple[list[Example], list[Example]]:
    """(kept, held out). Exact duplicates stay on one side. Classes keep their shares, and the rarest their rows.

    A tag that only held-out rows would have pulls its row back into the first part.
    """
    groups: dict[Any, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.input].append(example)
    strata: dict[Any, list[list[Example]]] = defaultdict(list)
    for group in groups.values():
        strata[group[0].target if kind == "classify" else ""].append(group)
    kept: list[Example] = []
    held: list[list[Example]] = []
    for _, members in sorted(strata.items(), key=lambda item: str(item[0])):
        rng.shuffle(members)
        count = min(max(math.floor(share * len(members) + 0.5), 1), len(members) - 1)
        held += members[:count]
        kept += [example for group in members[count:] for example in group]
    still: list[Example] = []
    known = {label for example in kept for label in _targets(example)}
    for group in held:
        strange = kind in _LABELLED and any(label not in known for example in group for label in _targets(example))
        (kept if strange else still).extend(group)
    rng.shuffle(kept)
    return kept, still
