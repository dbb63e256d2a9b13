"""Reads data files: CSV, JSON lines, Parquet, and the folders of Hugging Face's `datasets`.

Columns are named by the caller. A row that cannot be used is an error with its row number; none is skipped.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manyhats.core.kinds.examples import Columns, Example
from manyhats.core.kinds.rows import example_of
from manyhats.core.kinds.training import KindTraining
from manyhats.errors import InvalidRequest, WrongUsage
from manyhats.training.libraries import require

_FIELD_LIMIT = 1 << 24  # characters of one CSV field
_SPLIT_NAMES = {"validation": ("validation", "valid", "dev"), "test": ("test",)}


def read_examples(path: Path, kind: KindTraining, columns: Columns) -> list[Example]:
    """All rows of a file, or of one split of a `datasets` folder. Raises InvalidRequest with the row's number, or the
    existing columns."""
    wanted = kind.columns(columns)
    examples: list[Example] = []
    for number, record in _records(path):
        absent = next((column for column in wanted.values() if column not in record), None)
        if absent is not None:
            present = ", ".join(map(str, record)) or "none"
            raise InvalidRequest(
                f"{path.name}, row {number}: there is no column '{absent}'; the columns are: {present}", param=absent
            )
        try:
            examples.append(example_of(record, kind, columns))
        except ValueError as error:
            raise InvalidRequest(f"{path.name}, row {number}: {error}") from None
    if not examples:
        raise InvalidRequest(f"{path.name} has no rows", param="data")
    return examples


def splits_of(path: Path) -> dict[str, Path]:
    """The paths of a `datasets` folder's splits by `train`, `validation` and `test`; empty for other paths.

    Raises InvalidRequest where it has no split to train on.
    """
    listing = path / "dataset_dict.json"
    if not listing.is_file():
        return {}
    names = json.loads(listing.read_text(encoding="utf-8"))["splits"]
    if "train" not in names:
        raise InvalidRequest(f"'{path}' has the splits {', '.join(names)}, and none is called train", param="data")
    found = {"train": path / "train"}
    for split, known in _SPLIT_NAMES.items():
        name = next((name for name in known if name in names), None)
        if name is not None:
            found[split] = path / name
    return found


def _records(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    """(row number, columns). Rows of JSON lines count as lines, those of CSV without its header."""
    if path.is_dir():
        yield from _datasets_folder(path)
        return
    if not path.is_file():
        raise WrongUsage(f"the data file '{path}' does not exist", param="data")
    match path.suffix.lower():
        case ".csv":
            yield from _csv(path)
        case ".jsonl" | ".ndjson":
            yield from _jsonl(path)
        case ".parquet":
            yield from _parquet(path)
        case ending:
            raise WrongUsage(
                f"'{path.name}' ends in '{ending}'; data files are .csv (with a header line), .jsonl or .parquet, or "
                "folders that the library datasets saved",
                param="data",
            )


def _parquet(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    parquet = require("pyarrow.parquet", "a Parquet file")
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (require("pyarrow").ArrowException, OSError) as error:
        raise InvalidRequest(f"{path.name} is not readable as Parquet: {error}", param="data") from None


def _datasets_folder(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    """One split. Labels that are stored as numbers get their names back."""
    if not (path / "state.json").is_file():
        raise InvalidRequest(
            f"the folder '{path}' was not saved by the library datasets (it has no state.json)", param="data"
        )
    datasets = require("datasets", "such a folder")
    try:
        rows = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise InvalidRequest(f"'{path}' is not readable as a dataset: {error}", param="data") from None
    names = {column: _names(feature) for column, feature in rows.features.items()}
    for number, record in enumerate(rows, start=1):
        yield number, {column: _named(value, names[column]) for column, value in record.items()}


def _names(feature: Any) -> list[str] | None:
    """The names of a class label, or of a list of them; None for other features."""
    inner = getattr(feature, "feature", feature)
    names: list[str] | None = getattr(inner, "names", None)
    return names


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [names[one] for one in value]
    if value < 0:  # such data sets mark rows without a label so
        return None
    return names[value]


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
    """The digest of a file's content, or of the names and contents of a folder's files; hexadecimal."""
    if path.is_dir():
        total = hashlib.sha256()
        for one in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{one.relative_to(path).as_posix()}\0{sha256_of(one)}\n".encode())
        return total.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
