"""English interface texts and their French translations, by Django: for a task that translates."""

from __future__ import annotations

import gettext
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from .packages import Package, members
from .rows import Row, drop_duplicates, fold, text_key
from .splits import Made, split_rows

DJANGO = Package(client="pip", name="django", version="5.2.19", licence="BSD-3-Clause")
LONGEST = 120  # characters of a text


def catalogues(archive: Path, locales: Collection[str]) -> Iterator[tuple[str, Any, str]]:
    """Each locale with every text of its interface, behind the English one; that of a plural is a pair."""
    for name, content in sorted(members(archive)):
        found = re.search(r"/locale/(\w+)/LC_MESSAGES/django(?:js)?\.mo$", name)
        if found and found[1] in locales:
            catalogue = gettext.GNUTranslations(io.BytesIO(content))._catalog  # type: ignore[attr-defined]
            for source, target in catalogue.items():
                yield found[1], source, target


def make_interface(archive: Path) -> Made:
    """One row for each text; near-equal ones (that differ in placeholders or case) are in one split."""
    rows: list[Row] = []
    left_out = {"plural forms": 0, "long or empty": 0}
    for _, source, target in catalogues(archive, {"fr"}):
        if not isinstance(source, str):
            left_out["plural forms"] += 1
            continue
        text, label = fold(source.rpartition("\x04")[2]), fold(target)
        if not text or not label or len(text) > LONGEST or len(label) > 2 * LONGEST:
            left_out["long or empty"] += 1
        else:
            rows.append({"text": text, "label": label})
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    groups = [re.sub(r"[^a-z]+", "", re.sub(r"%\(?\w*\)?[sd]|\{[^}]*\}", "", text_key(row))) for row in rows]
    splits = split_rows(rows, groups, ["all"] * len(rows), 0.08, 0.15)
    return splits, left_out | {"duplicates": duplicates, "two translations": disagreeing}
