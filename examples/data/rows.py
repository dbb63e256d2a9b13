"""Rows of a data set: their text cleaned, equal ones found, related ones put together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def fold(text: str) -> str:
    """One line of text: no control characters, every run of white space one blank."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u200b\ufeff\ufffd]", " ", text)
    return " ".join(text.split()).encode("utf-8", "ignore").decode()


def drop_duplicates(rows: Sequence[Row], key: Callable[[Row], str]) -> tuple[list[Row], int, int]:
    """The first of every set of equal rows; none where equal rows disagree on the label.

    Also says how many rows went as duplicates and how many because of a disagreement.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[key(row)].add(row["label"])
    kept: dict[str, Row] = {}
    disagreeing = 0
    for row in rows:
        if len(labels[key(row)]) > 1:
            disagreeing += 1
        else:
            kept.setdefault(key(row), row)
    return list(kept.values()), len(rows) - len(kept) - disagreeing, disagreeing


def text_key(row: Row) -> str:
    """Two texts that differ in case and white space alone are duplicates."""
    return fold(row["text"]).casefold()


def joined_groups(keys: Iterable[Iterable[str]]) -> list[str]:
    """One name per item; items that share any key, directly or through others, share the name."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    firsts: list[str] = []
    for number, item in enumerate(keys):
        item = list(item) or [f"item {number}"]
        firsts.append(item[0])
        for key in item[1:]:
            one, other = sorted((root(item[0]), root(key)))
            parent[other] = one
    return [root(first) for first in firsts]
