"""Passages of some sentences, each with the genre of its document, which stays in one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .brown import GENRES, Sentence, brown_documents, join_words
from .rows import Row, drop_duplicates, text_key
from .splits import Made, split_rows


def passages(sentences: Sequence[Sentence], enough: int = 50) -> list[str]:
    """Runs of three sentences, or of four where three have too few words; what is left over goes."""
    found = []
    start = 0
    while start + 3 <= len(sentences):
        end = start + 3
        if end < len(sentences) and sum(map(len, sentences[start:end])) < enough:
            end += 1
        found.append(" ".join(join_words([word for word, _ in part]) for part in sentences[start:end]))
        start = end
    return found


def make_genre(archive: Path) -> Made:
    """The passages of every document."""
    rows: list[Row] = []
    names: dict[str, str] = {}
    for name, sentences in brown_documents(archive).items():
        for text in passages(sentences):
            row = {"text": text, "label": GENRES[name[1]]}
            rows.append(row)
            names.setdefault(text_key(row), name)
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    groups = [names[text_key(row)] for row in rows]
    sizes = {"train": 8000, "validation": 1000, "test": 2000}
    splits = split_rows(rows, groups, [row["label"] for row in rows], 0.1, 0.2, sizes)
    return splits, {"duplicates": duplicates, "disagreeing labels": disagreeing}
