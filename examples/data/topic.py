"""Mails, each with what the list that it was sent to is about; threads stay together, as for `spam`.

Marks and footers that name the list are left out of the text.
"""

from __future__ import annotations

import email.message
from collections import Counter
from pathlib import Path

from .mails import decoded_header
from .rows import Row, drop_duplicates, joined_groups, text_key
from .spam import mail_keys, mail_row, mails
from .splits import SEED, Made, rank, split_rows

LISTS = {
    "fork.xent.com": "discussion",
    "ilug.linux.ie": "linux",
    "rpm-zzzlist.freshrpms.net": "packages",
    "exmh-users.": "mail programs",
    "exmh-workers.": "mail programs",
    "razor-users.": "spam filters",
    "spamassassin-talk.": "spam filters",
    "spamassassin-devel.": "spam filters",
}
TOPIC_ROWS = 420  # of one topic at most


def topic(message: email.message.Message) -> str | None:
    """What the mail's list is about; None for mails of other lists, and of none."""
    identity = str(message.get("list-id") or "")
    if found := [about for name, about in LISTS.items() if name in identity]:
        return found[0]
    if "[zzzzteana]" in decoded_header(message["subject"]):
        return "curiosities"
    if "rssfeeds@" in str(message.get("from") or ""):
        return "news"
    return None


def make_topic(archive: Path) -> Made:
    """The wanted mails of the public corpus of SpamAssassin, those of no list left out."""
    rows: list[Row] = []
    keys: dict[str, list[str]] = {}
    others = 0
    for folder, message in mails(archive):
        about = None if folder.startswith("spam") else topic(message)
        row = None if about is None else mail_row(message, about)
        if row is None:
            others += 1
            continue
        rows.append(row)
        keys.setdefault(text_key(row), []).extend(mail_keys(message))
    rows, duplicates, disagreeing = drop_duplicates(rows, text_key)
    taken: Counter[str] = Counter()
    kept = []
    for row in sorted(rows, key=lambda row: rank(text_key(row), SEED + 1)):
        taken[row["label"]] += 1
        if taken[row["label"]] <= TOPIC_ROWS:
            kept.append(row)
    groups = joined_groups([f"text {text_key(row)}", *keys[text_key(row)]] for row in kept)
    splits = split_rows(kept, groups, [row["label"] for row in kept], 0.1, 0.2)
    left_out = {"spam, or of other lists": others, "duplicates": duplicates, "in two lists": disagreeing}
    return splits, left_out | {"beyond a topic's most": len(rows) - len(kept)}
