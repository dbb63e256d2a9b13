"""A task's data: training, validation and test splits, with checks."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyhats.core.kinds.examples import Columns, Example
from manyhats.core.kinds.training import KindTraining
from manyhats.errors import InvalidRequest
from manyhats.training.files import read_examples, sha256_of, splits_of

# The share of the data that is held out where no file is given for it.
HELD_OUT = 0.1


@dataclass(frozen=True, slots=True)
class Source:
    """A file that data came from."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training, validation and test data of one task. `labels`: the classes or tags in their order; empty for
    other kinds."""

    kind: KindTraining
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    labels: list[str]
    sources: list[Source]
    notes: list[str]  # remarks for a reader of the results, as sentences

    def count(self, label: str) -> int:
        """How often a label is in the training data."""
        return sum(self.kind.label_count(example, label) for example in self.train)


def load(
    kind: KindTraining,
    columns: Columns,
    data: Path,
    validation: Path | None = None,
    test: Path | None = None,
    *,
    seed: int = 0,
) -> Dataset:
    """Reads and checks a task's data; validation or test data without a file are split off the training data. The
    splits of a `datasets` folder are used by name.

    Raises InvalidRequest for data that cannot be learned from, or evaluated on.
    """
    sources: list[Source] = []

    def read(path: Path) -> list[Example]:
        examples = read_examples(path, kind, columns)
        sources.append(Source(path.name, sha256_of(path), len(examples)))
        return examples

    found = splits_of(data) if data.is_dir() else {}
    data, validation, test = (
        found.get("train", data),
        validation or found.get("validation"),
        test or found.get("test"),
    )
    train = read(data)
    held: dict[str, list[Example]] = {}
    if validation is not None:
        held["validation"] = read(validation)
    if test is not None:
        held["test"] = read(test)
    notes: list[str] = []
    for salt, subset in enumerate(("validation", "test")):
        if subset not in held:
            train, held[subset] = split(train, kind, HELD_OUT, random.Random(f"{seed}/{salt}"))
            notes.append(f"The {subset} data is a seeded {HELD_OUT:.0%} of {data.name}.")
            if not train or not held[subset]:
                raise InvalidRequest(f"{data.name} has too few rows to split off {subset} data", param="data")
    labels = sorted({label for example in train for label in kind.labels(example)})
    kind.check_data(train, labels, data.name)
    for subset, path in (("validation", validation), ("test", test)):
        if kind.labelled:
            _check_known(held[subset], kind, set(labels), path.name if path else f"the {subset} part of {data.name}")
            notes += _unseen(held[subset], kind, labels, subset)
        notes += _duplicates(train, held[subset], subset)
    return Dataset(kind, train, held["validation"], held["test"], labels, sources, notes)


def _unseen(examples: Sequence[Example], kind: KindTraining, labels: Sequence[str], subset: str) -> list[str]:
    seen = {label for example in examples for label in kind.labels(example)}
    absent = [label for label in labels if label not in seen]
    if not absent:
        return []
    listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    return [f"{len(absent)} of {len(labels)} labels do not occur in the {subset} data, and are not judged: {listed}."]


def _check_known(examples: Sequence[Example], kind: KindTraining, known: set[str], name: str) -> None:
    for number, example in enumerate(examples, start=1):
        unknown = next((label for label in kind.labels(example) if label not in known), None)
        if unknown is not None:
            raise InvalidRequest(
                f"{name}, row {number}: the label '{unknown}' does not occur in the training data", param="label"
            )


def _duplicates(train: Sequence[Example], held: Sequence[Example], subset: str) -> list[str]:
    seen = {example.input for example in train}
    count = sum(example.input in seen for example in held)
    if not count:
        return []
    return [f"{count} of {len(held)} {subset} inputs also stand in the training data, which flatters the result."]


def split(
    examples: Sequence[Example], kind: KindTraining, share: float, rng: random.Random
) -> tuple[list[Example], list[Example]]:
    """(kept, held out). What the kind groups stays on one side, and exact duplicates do. Classes keep their shares, and
    the rarest their rows.

    A row with a tag that only held-out rows have is moved to the first part.
    """
    groups: dict[Any, list[Example]] = defaultdict(list)
    for example in examples:
        groups[kind.group(example)].append(example)
    strata: dict[Any, list[list[Example]]] = defaultdict(list)
    for group in groups.values():
        strata[kind.stratum(group[0])].append(group)
    kept: list[Example] = []
    held: list[list[Example]] = []
    for _, members in sorted(strata.items(), key=lambda item: str(item[0])):
        rng.shuffle(members)
        count = min(max(math.floor(share * len(members) + 0.5), 1), len(members) - 1)
        held += members[:count]
        kept += [example for group in members[count:] for example in group]
    still: list[Example] = []
    known = {label for example in kept for label in kind.labels(example)}
    for group in held:
        unknown = any(label not in known for example in group for label in kind.labels(example))
        (kept if unknown else still).extend(group)
    rng.shuffle(kept)
    return kept, still
