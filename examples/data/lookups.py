"""Words, each with its own definition and with another's, by WordNet: for a task that ranks definitions by a word."""

from __future__ import annotations

from pathlib import Path

from .definitions import make_definitions
from .rows import Row
from .splits import Made

SIZES = {"train": 1000, "validation": 150, "test": 300}  # words


def make_lookups(archive: Path) -> Made:
    """Two rows of each word: its definition is right (1), that of the next word is wrong (0)."""
    definitions, left_out = make_definitions(archive)
    splits: dict[str, list[Row]] = {}
    for name, size in SIZES.items():
        kept = definitions[name][:size]
        splits[name] = []
        for row, other in zip(kept, kept[1:] + kept[:1], strict=True):
            splits[name].append({"text": row["text"], "document": row["label"], "label": 1})
            splits[name].append({"text": row["text"], "document": other["label"], "label": 0})
    return splits, left_out
