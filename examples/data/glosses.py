"""Definitions of WordNet, each with the class that its word is filed under."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .packages import Package, members
from .rows import Row, drop_duplicates, fold, text_key
from .splits import SEED, Made, rank, split_rows

WORDNET = Package(client="apt-get", name="wordnet-base", version="", licence="WordNet 3.0")
CLASS_ROWS = 665  # keeps the large classes from drowning the small ones; about 25,000 rows in all
CLASS_NAMES = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
    noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive
    noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity
    noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change verb.cognition
    verb.communication verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion
    verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl
"""
CLASSES = CLASS_NAMES.split()  # in the order of their numbers in the package's files


def clean_gloss(gloss: str) -> str:
    """The definition without its examples, which stand in quotes."""
    parts = [part.strip() for part in re.findall(r'(?:"[^"]*"|[^;"]|"(?=[^"]*$))+', gloss)]
    kept = parts[:1] + [part for part in parts[1:] if not part.startswith('"') and part.count('"') % 2 == 0]
    kept = [re.sub(r"\([^()]*$", "", part.partition('"')[0]).strip(" ,:-") for part in kept]
    return fold("; ".join(part for part in kept if part).replace("`", "'"))


def meanings(archive: Path) -> Iterator[tuple[list[str], str]]:
    """Every meaning in WordNet's files: its fields (the second names the class, the fifth a word) and its gloss."""
    for name, content in sorted(members(archive)):
        if not re.search(r"/wordnet/data\.(?:noun|verb|adj|adv)$", name):
            continue
        for line in content.decode().split("\n"):
            if line.startswith("  ") or " | " not in line:
                continue  # the licence, at the top
            fields, _, gloss = line.partition(" | ")
            yield fields.split(), gloss


def make_glosses(archive: Path) -> Made:
    """The definitions, so many of a class at most."""
    rows: list[Row] = []
    empty = 0
    for fields, gloss in meanings(archive):
        text = clean_gloss(gloss)
        if text:
            rows.append({"text": text, "label": CLASSES[int(fields[1])]})
        else:
            empty += 1
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    taken: Counter[str] = Counter()
    kept = []
    for row in sorted(rows, key=lambda row: rank(text_key(row), SEED + 1)):
        taken[row["label"]] += 1
        if taken[row["label"]] <= CLASS_ROWS:
            kept.append(row)
    splits = split_rows(kept, [text_key(row) for row in kept], [row["label"] for row in kept], 0.08, 0.12)
    return splits, {
        "empty": empty,
        "duplicates": duplicates,
        "disagreeing labels": disagreeing,
        f"over {CLASS_ROWS} of a class": len(rows) - len(kept),
    }
