"""The data sets of the mail triage: languages and topics. Nothing is fetched."""

from __future__ import annotations

import email
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.data.language import LANGUAGES, LOCALES, PIECES, SHORTEST, articles, make_language, pieces
from examples.data.topic import make_topic, topic
from tests.examples.test_texts import archive, catalogue

PAGE = (
    "<html><body><h1>Title</h1><header><h2>Preamble</h2><p>Whereas all &amp; each</p><p>are born</p></header>"
    '<article data-number="1"><h2>Article 1</h2><ol><li>Everyone has <b>rights</b>.</li></ol></article></body></html>'
)


def test_articles_have_their_numbers_and_no_titles() -> None:
    assert list(articles(PAGE)) == [("0", "Whereas all & each are born"), ("1", "Everyone has rights .")]


@given(st.integers(0, 200))
def test_pieces_are_consecutive_and_none_is_very_short(count: int) -> None:
    words = [f"w{i}" for i in range(count)]
    made = [piece.split() for piece in pieces(" ".join(words))]
    flat = [word for piece in made for word in piece]
    assert flat == words[: len(flat)]
    assert count - len(flat) < SHORTEST
    assert all(SHORTEST <= len(piece) <= max(PIECES) for piece in made)


def test_both_sources_have_the_same_languages() -> None:
    assert {*LANGUAGES.values()} == {*LOCALES.values()} | {"English"}


def test_an_article_and_a_sentence_stay_in_one_split_in_all_languages(tmp_path: Path) -> None:
    def page(language: str) -> bytes:
        parts = (
            f'<article data-number="{n}"><p>{" ".join(f"{language}{n}x{i}" for i in range(12))}</p></article>'
            for n in range(1, 31)
        )
        return "".join(parts).encode()

    declarations = {f"package/declaration/{code}.html": page(code) for code in ("eng", "fra", "xyz")}
    texts = {f"please enter number {n} here": f"entrez le nombre {n} ici" for n in range(20)}
    texts |= {"a %(name)s with a place": "un %(name)s avec une place", "too short": "trop court ici là"}
    locale = {"django/conf/locale/fr/LC_MESSAGES/django.mo": catalogue(texts)}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    splits, left_out = make_language(archive(tmp_path / "a", declarations), archive(tmp_path / "b", locale))
    homes: dict[str, str] = {}
    for split, rows in splits.items():
        for row in rows:
            text = row["text"]
            number = text.split()[3] if "number" in text or "nombre" in text else text.split("x")[0][3:]
            source = ("sentence " if " " in text and "x" not in text else "article ") + number
            assert homes.setdefault(source, split) == split, text
    rows = [row for rows in splits.values() for row in rows]
    assert {row["label"] for row in rows} == {"English", "French"}
    assert len(rows) == 2 * 30 + 2 * 20
    assert left_out["in two languages"] == 0


def mail(**headers: str) -> str:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\n".join([*lines, "", "The body of a mail, long enough."])


@pytest.mark.parametrize(
    ("headers", "about"),
    [
        ({"List_Id": "Irish Linux Users' Group <ilug.linux.ie>"}, "linux"),
        ({"List_Id": "<razor-users.example.sourceforge.net>"}, "spam filters"),
        ({"List_Id": "Irish Linux Users' Group social events <social.linux.ie>"}, None),
        ({"Subject": "Re: [zzzzteana] Moscow"}, "curiosities"),
        ({"From": "boingboing <rssfeeds@example.com>"}, "news"),
        ({"Subject": "hello"}, None),
    ],
)
def test_a_mail_is_about_what_its_list_is_about(headers: dict[str, str], about: str | None) -> None:
    assert topic(email.message_from_string(mail(**headers))) == about


def test_the_name_of_a_list_is_not_in_the_text_and_spam_has_no_topic(tmp_path: Path) -> None:
    mails = {
        "data/easy-ham-1/1.json": mail(List_Id="<ilug.linux.ie>", Subject="[ILUG] Re: a disk"),
        "data/spam-1/2.json": mail(List_Id="<ilug.linux.ie>", Subject="[ILUG] buy now"),
    }
    files = {f"package/{name}": json.dumps({"text": text}).encode() for name, text in mails.items()}
    splits, left_out = make_topic(archive(tmp_path, files))
    rows = [row for rows in splits.values() for row in rows]
    assert rows == [{"text": "a disk The body of a mail, long enough.", "label": "linux"}]
    assert left_out["spam, or of other lists"] == 1
