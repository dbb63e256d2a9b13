"""Sentences whose every word has its part of speech; a document stays in one split."""

from __future__ import annotations

import re
from pathlib import Path

from .brown import GENRES, brown_documents
from .rows import Row
from .splits import Made, split_rows

TAGS = {
    "NOUN": "nn nns np nps nr nrs",
    "VERB": "vb vbd vbg vbn vbz md be bed bedz beg bem ben ber bez do dod doz hv hvd hvg hvn hvz",
    "ADJ": "jj jjr jjs jjt ap od",
    "ADV": "rb rbr rbt rn ql qlp wql wrb *",
    "PRON": "pn pp$ pp$$ ppl ppls ppo pps ppss wp$ wpo wps ex",
    "DET": "at dt dti dts dtx wdt abl abn abx",
    "ADP": "in",
    "CONJ": "cc cs",
    "NUM": "cd",
    "PRT": "rp to uh",
    "X": "fw",
    "PUNCT": ". , : ( ) -- `` '' '",
}
UNIVERSAL = {brown: universal for universal, several in TAGS.items() for brown in several.split()}


def universal_tag(tag: str) -> str:
    """The part of speech of one of the corpus's tags; of its first part where a word is two (we'll)."""
    tag = tag.lower()
    if tag.startswith("fw-"):
        return "X"  # a foreign word
    tag = re.sub(r"(?:-(?:hl|tl|nc|t|n))+$", "", tag).split("+")[0]
    tag = tag if tag in UNIVERSAL else tag.rstrip("*")
    return UNIVERSAL.get(tag) or UNIVERSAL.get(tag.rstrip("$"), "X")


def plain_word(word: str) -> str:
    """A word as one would type it."""
    return '"' if word in {"``", "''"} else word


def make_parts_of_speech(archive: Path) -> Made:
    """Sentences of 3 to 80 words, each once."""
    rows: list[Row] = []
    names: list[str] = []
    length = untagged = repeated = 0
    seen: set[tuple[str, ...]] = set()
    for name, sentences in brown_documents(archive).items():
        for sentence in sentences:
            tokens = [plain_word(word) for word, _ in sentence]
            if not 3 <= len(tokens) <= 80:
                length += 1
            elif any(tag.startswith("nil") for _, tag in sentence):
                untagged += 1
            elif tuple(tokens) in seen:
                repeated += 1
            else:
                seen.add(tuple(tokens))
                rows.append({"tokens": tokens, "tags": [universal_tag(tag) for _, tag in sentence]})
                names.append(name)
    sizes = {"train": 8000, "validation": 1000, "test": 1500}
    splits = split_rows(rows, names, [GENRES[name[1]] for name in names], 0.1, 0.2, sizes)
    return splits, {
        "under 3 or over 80 tokens": length,
        "words without a tag": untagged,
        "duplicates": repeated,
    }
