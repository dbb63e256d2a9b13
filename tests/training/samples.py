"""Easy tasks for tiny backbones, whose tokenizer knows the words `w0` ... `w99`."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manyhats.backbone import Backbone
from manyhats.core.kinds.examples import Columns, EncodedExample, Example
from manyhats.core.kinds.registry import TRAININGS
from manyhats.core.kinds.rows import example_of

LABELS = ("even", "odd")


def rows(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Labelled rows. The class of a text is the parity of the word that it consists of, with some others between; the
    tag of a word its parity; the number of a text how many of its words are `w1`; its labels say which of `w0` and `w1`
    it has; the answer is `w7`; two texts belong together that have the same words the other way round; a document that
    has `w0` is relevant to any query."""
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
        elif kind == "multilabel":
            labels = [label for label in LABELS if pick.random() < 0.5]
            words = [f"w{LABELS.index(label)}" for label in labels] + [f"w{pick.randrange(2, 6)}"]
            made.append({"text": " ".join(words * 2), "label": labels})
        elif kind == "span":
            words = [f"w{pick.randrange(10, 30)}" for _ in range(length)]
            position = pick.randrange(length)
            words[position] = "w7"
            start = sum(len(word) + 1 for word in words[:position])
            made.append({"text": "w7", "context": " ".join(words), "label": "w7", "answer_start": start})
        elif kind == "embed":
            words = [f"w{pick.randrange(2, 60)}" for _ in range(3)]
            made.append({"text": " ".join(["w0", *words]), "pair": " ".join(["w1", *reversed(words)])})
        elif kind == "rerank":
            label = pick.randrange(2)
            words = [f"w{1 - label}"] * 2 + [f"w{pick.randrange(10, 100)}"]
            made.append({"text": f"w{pick.randrange(10, 60)}", "document": " ".join(words), "label": label})
        else:
            ones = pick.randint(0, length)
            words = ["w1"] * ones + ["w2"] * (length - ones)
            pick.shuffle(words)
            made.append({"text": " ".join(words), "label": 100 + 10 * ones / length})
    return made


def examples(kind: str, count: int, seed: int) -> list[Example]:
    """The same rows as checked examples."""
    return [example_of(row, TRAININGS[kind], Columns()) for row in rows(kind, count, seed)]


def encoded_examples(backbone: Backbone, kind: str, count: int, seed: int) -> list[EncodedExample]:
    """The same rows as tokens."""
    return TRAININGS[kind].encode(examples(kind, count, seed), LABELS, backbone, 40)


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
