"""Tweets and snippets of film reviews, each negative or positive."""

from __future__ import annotations

import html
from pathlib import Path

from .packages import Package, members
from .rows import Row, drop_duplicates, fold, text_key
from .splits import Made, split_rows

VADER = Package(
    client="pip",
    name="vaderSentiment",
    version="3.3.2",
    licence="MIT",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)


def valence_label(valence: float) -> str | None:
    """negative, positive, or None for what lies between."""
    if valence <= -0.5:
        return "negative"
    return "positive" if valence >= 0.5 else None


def make_sentiment(archive: Path, source: str) -> Made:
    """The texts of one of the package's collections."""
    inner = next(content for name, content in members(archive) if name.endswith("/hutto_ICWSM_2014.tar.gz"))
    content = next(content for name, content in members(inner) if name.endswith(f"/{source}_GroundTruth.txt"))
    rows: list[Row] = []
    neutral = 0
    for line in content.decode().split("\r\n" if b"\r\n" in content else "\n"):
        if not line.strip():
            continue
        _, valence, text = line.split("\t", 2)
        label = valence_label(float(valence))
        if label is None:
            neutral += 1
        else:
            rows.append({"text": fold(html.unescape(text).replace("''", '"')), "label": label})
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    splits = split_rows(rows, [text_key(row) for row in rows], [row["label"] for row in rows], 0.1, 0.2)
    return splits, {"neutral": neutral, "duplicates": duplicates, "disagreeing labels": disagreeing}
