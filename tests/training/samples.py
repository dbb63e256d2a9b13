"""Easy tasks for tiny backbones, whose tokenizer knows the words `w0` ... `w99`."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyhats.backbone import Backbone
from manyhats.training.batches import Item, encode_examples
from manyhats.training.data import Example, TaskKind

LABELS = ("even", "odd")


def rows(kind: TaskKind, count: int, seed: int) -> list[dict[str, Any]]:
    """Labelled rows. The class of a text is the parity of the word that it consists of, with some others between; the
    tag of a word its parity; the number of a text how many of its words are `w1`."""
    pick = random.Random(f"{kind}/{seed}")
    made = []
    for _ in range(count):
        length = pick.randint(3, 9)
        if kind == "classify":
            label = pick.randrange(2)
            words = [f"w{label}" if pick.random() < 0.7 else f"w{pick.randrange(2, 100)}" for _ in range(length)]
            made.append({"text": " ".join([*words, f"w{label}"]), "label": LABELS[label]})
        elif kind == "tokens":
            numbers = [pick.randrange(8) for _ in range(length)]
            made.append({"tokens": [f"w{n}" for n in numbers], "tags": [LABELS[n % 2] for n in numbers]})
        else:
            ones = pick.randint(0, length)
            words = ["w1"] * ones + ["w2"] * (length - ones)
            pick.shuffle(words)
            made.append({"text": " ".join(words), "label": 100 + 10 * ones / length})
    return made


def examples(kind: TaskKind, count: int, seed: int) -> list[Example]:
    """The same rows as checked examples."""
    if kind == "tokens":
        return [Example("", None, tuple(r["tokens"]), tuple(r["tags"])) for r in rows(kind, count, seed)]
    return [Example(r["text"], None, (), r["label"]) for r in rows(kind, count, seed)]


def items(backbone: Backbone, kind: TaskKind, count: int, seed: int) -> list[Item]:
    """The same rows as tokens."""
    return encode_examples(examples(kind, count, seed), kind, LABELS, backbone, 40)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
