"""The data sets of the tasks that write: which rows are kept. Nothing is fetched."""

from __future__ import annotations

import io
import struct
import tarfile
from collections import Counter
from pathlib import Path

from examples.data.definitions import make_definitions
from examples.data.interface import make_interface
from examples.data.lookups import make_lookups


def archive(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "package.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def catalogue(texts: dict[str, str]) -> bytes:
    """A gettext catalogue as msgfmt writes it."""
    entries = sorted(({"": "Content-Type: text/plain; charset=UTF-8\n"} | texts).items())
    ids = [key.encode() for key, _ in entries]
    values = [value.encode() for _, value in entries]
    start = 28 + 16 * len(entries)
    offsets, data = [], b""
    for part in (ids, values):
        for text in part:
            offsets.append((len(text), start + len(data)))
            data += text + b"\0"
    count = len(entries)
    header = struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0)
    return header + b"".join(struct.pack("<2I", *pair) for pair in offsets) + data


def rows(splits: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {row["text"]: row["label"] for part in splits.values() for row in part}


def test_definitions_are_the_first_meanings_of_single_words(tmp_path: Path) -> None:
    lines = [
        "  1 the licence",
        '0001 03 n 01 lamp 0 000 | a source of light; "he lit the lamp"',
        "0002 03 n 01 lamp 1 000 | a piece of furniture holding lights",
        "0003 03 n 01 street_lamp 0 000 | a lamp over a street",
        "0004 03 n 01 word 0 000 | " + "long " * 40,
    ]
    splits, left_out = make_definitions(archive(tmp_path, {"usr/wordnet/data.noun": "\n".join(lines).encode()}))
    assert rows(splits) == {"lamp": "a source of light"}
    assert left_out == {"several words": 1, "empty": 0, "long": 1, "further meanings": 1, "over 20000": 0}


def test_interface_texts_with_one_translation(tmp_path: Path) -> None:
    files = {
        "d/conf/locale/fr/LC_MESSAGES/django.mo": catalogue({"Save": "Enregistrer", "Yes": "Oui", "x" * 200: "y"}),
        "d/admin/locale/fr/LC_MESSAGES/djangojs.mo": catalogue({"Yes": "Ouais", "verb\x04Close": "Fermer"}),
        "d/admin/locale/de/LC_MESSAGES/django.mo": catalogue({"No": "Nein"}),
    }
    splits, left_out = make_interface(archive(tmp_path, files))
    assert rows(splits) == {"Save": "Enregistrer", "Close": "Fermer"}
    assert left_out["two translations"] == 2


def test_lookups_have_a_right_and_a_wrong_definition_of_each_word(tmp_path: Path) -> None:
    words = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    lines = [f"{i:04} 03 n 01 {word} 0 000 | what {word} is" for i, word in enumerate(words)]
    splits, _ = make_lookups(archive(tmp_path, {"usr/wordnet/data.noun": "\n".join(lines).encode()}))
    homes: dict[str, set[str]] = {}
    for name, part in splits.items():
        for row in part:
            assert (row["document"] == f"what {row['text']} is") == (row["label"] == 1)
            homes.setdefault(row["text"], set()).add(name)
            homes.setdefault(row["document"], set()).add(name)
        assert Counter(row["label"] for row in part) == {0: len(part) / 2, 1: len(part) / 2}
    assert all(len(one) == 1 for one in homes.values())
