"""What goes into training, validation and test: by a hash of the rows' keys, nothing by chance."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from .rows import Row

SEED = 20
SPLITS = ("train", "validation", "test")

Splits = dict[str, list[Row]]
Made = tuple[Splits, dict[str, int]]  # the rows of each split, and how many rows were left out, and why


def rank(key: Hashable, seed: int = SEED) -> str:
    """A place in an order that looks random and depends on nothing but the key and the seed."""
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).hexdigest()


def split_keys(weights: Mapping[str, int], validation: float, test: float) -> dict[str, str]:
    """Puts every key into one split, so that the splits get about their shares of the weight."""
    total = sum(weights.values())
    placed: dict[str, str] = {}
    before = 0
    for key in sorted(weights, key=rank):
        middle = (before + weights[key] / 2) / total if total else 1.0
        placed[key] = "test" if middle < test else "validation" if middle < test + validation else "train"
        before += weights[key]
    return placed


def split_rows(
    rows: Sequence[Row],
    groups: Sequence[str],
    strata: Sequence[str],
    validation: float,
    test: float,
    sizes: Mapping[str, int] | None = None,
) -> Splits:
    """Splits rows so that a group never crosses, with the same shares in every stratum.

    A group whose rows lie in several strata counts for its most frequent one. `sizes` limits how many
    rows a split keeps.
    """
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        kinds[group][stratum] += 1
    weights: dict[str, dict[str, int]] = defaultdict(dict)
    for group, counts in kinds.items():
        stratum = min(counts, key=lambda stratum: (-counts[stratum], stratum))
        weights[stratum][group] = sum(counts.values())
    placed: dict[str, str] = {}
    for stratum in weights:
        placed |= split_keys(weights[stratum], validation, test)
    splits: Splits = {name: [] for name in SPLITS}
    for row, group in zip(rows, groups, strict=True):
        splits[placed[group]].append(row)
    for name, kept in splits.items():
        kept.sort(key=lambda row: rank(json.dumps(row, sort_keys=True)))
        if sizes and name in sizes:
            del kept[sizes[name] :]
    return splits
