"""Words and what they mean, by WordNet: for a task that writes definitions."""

from __future__ import annotations

from pathlib import Path

from .glosses import clean_gloss, meanings
from .rows import Row, text_key
from .splits import SEED, Made, rank, split_rows

LONGEST = 90  # characters of a definition
ROWS = 20_000


def make_definitions(archive: Path) -> Made:
    """The first, most common meaning of each word; a word is in one split alone."""
    rows: list[Row] = []
    left_out = {"several words": 0, "empty": 0, "long": 0, "further meanings": 0}
    seen: set[str] = set()
    for fields, gloss in meanings(archive):
        word = fields[4].partition("(")[0]
        text = clean_gloss(gloss).partition(";")[0].strip()
        if "_" in word or not word.isalpha():
            left_out["several words"] += 1
        elif not text:
            left_out["empty"] += 1
        elif len(text) > LONGEST:
            left_out["long"] += 1
        elif word.casefold() in seen:
            left_out["further meanings"] += 1
        else:
            seen.add(word.casefold())
            rows.append({"text": word, "label": text})
    kept = sorted(rows, key=lambda row: rank(text_key(row), SEED + 2))[:ROWS]
    splits = split_rows(kept, [text_key(row) for row in kept], ["all"] * len(kept), 0.02, 0.04)
    return splits, left_out | {f"over {ROWS}": len(rows) - len(kept)}
