"""Sorts mails: spam, topic, sentiment and language of all of them, asked in one call.

    python examples/mail_triage/triage.py [--url URL] [--json] PATH ...

PATH is a mail (.eml), a mailbox (.mbox), or a folder of them. README.md says how to start a server with the four tasks.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import json
import mailbox
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from manyhats_client import ClassifyAnswer, Client, Failure, ManyhatsError
from rich.console import Console
from rich.table import Table

TASKS = ("spam", "topic", "sentiment", "language")
AT_ONCE = 64  # mails of one call
CHARACTERS = 1500  # of a mail that are read; the tasks learned from as many
UNSURE = 0.55  # an answer with a lower score has a question mark
ENGLISH = ("spam", "topic", "sentiment")  # learned from English alone


class Unanswered(Exception):
    """A task has no answer."""


@dataclass(frozen=True)
class Mail:
    """What is read of a mail. `text`: subject and body, as the tasks read them."""

    file: str
    sender: str
    subject: str
    text: str


class _Visible(HTMLParser):
    """Collects what a reader sees of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._hidden += tag in ("script", "style", "title")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "title") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def body_of(message: EmailMessage) -> str:
    """The plain text of a mail, or what a reader sees of its HTML; empty where it has neither."""
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    try:
        content = str(part.get_content())
    except (LookupError, UnicodeError, ValueError):  # an unknown encoding
        content = bytes(part.get_payload(decode=True) or b"").decode("latin-1")
    if part.get_content_subtype() == "html":
        page = _Visible()
        page.feed(content)
        content = " ".join(page.parts)
    return content


def read_mails(paths: Sequence[Path]) -> Iterator[Mail]:
    """The mails of files and folders, in the order of their names.

    Raises OSError, or mailbox.Error, for what is not there.
    """
    for path in paths:
        if path.is_dir():
            yield from read_mails(sorted(one for one in path.iterdir() if one.suffix in (".eml", ".mbox")))
        elif path.suffix == ".mbox":
            with closing(mailbox.mbox(path, create=False)) as box:
                for number, stored in enumerate(box, start=1):
                    yield _mail(f"{path.name}:{number}", stored.as_bytes())
        else:
            yield _mail(path.name, path.read_bytes())


def _mail(file: str, content: bytes) -> Mail:
    message = email.message_from_bytes(content, _class=EmailMessage, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    subject = " ".join(str(message.get("subject", "")).split())
    text = " ".join(f"{subject}\n{body_of(message)}".split())
    return Mail(file, str(message.get("from", "")), subject, text[:CHARACTERS] or "(empty)")


def ask(client: Client, mails: Sequence[Mail]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every mail's answers by task, and the batches that they were computed in.

    One call for all tasks and as many mails as a call takes. Raises ManyhatsError where the server fails, Unanswered
    where a task does.
    """
    answers: list[dict[str, Any]] = [{} for _ in mails]
    batches: dict[int, str] = {}
    for start in range(0, len(mails), AT_ONCE):
        texts = [mail.text for mail in mails[start : start + AT_ONCE]]
        for task, result in zip(TASKS, client.predict_tasks(TASKS, texts), strict=True):
            if not isinstance(result, ClassifyAnswer):
                reason = result.error.message if isinstance(result, Failure) else f"answers {result.kind}, no label"
                raise Unanswered(f"the task '{task}': {reason}")
            for number, output in enumerate(result.outputs, start):
                answers[number][task] = {"label": output.label, "score": round(output.score, 3)}
            batches[result.batch.id] = ", ".join(result.batch.methods)
    return answers, [f"no. {number}: {methods}" for number, methods in sorted(batches.items())]


def as_table(mails: Sequence[Mail], answers: Sequence[dict[str, Any]]) -> Table:
    """A line for each mail; in parentheses what a task says of a language that it did not learn."""
    table = Table("mail", "subject", *TASKS)
    for mail, found in zip(mails, answers, strict=True):
        english = found["language"]["label"] == "English"
        shown = [_shown(found[task], english or task not in ENGLISH) for task in TASKS]
        spam = english and found["spam"]["label"] == "spam"
        table.add_row(mail.file, mail.subject, *shown, style="dim" if spam else None)
    return table


def _shown(answer: dict[str, Any], learned: bool) -> str:
    text = f"{answer['label']}{'?' if answer['score'] < UNSURE else ''}"
    return text if learned else f"({text})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks and prints; the exit code is 1 where there is no answer."""
    parser = argparse.ArgumentParser(description="Sort mails: spam, topic, sentiment and language in one call.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="mails (.eml), mailboxes (.mbox), folders")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each mail")
    options = parser.parse_args(arguments)
    try:
        mails = list(read_mails(options.paths))
        with Client(options.url) as client:
            answers, batches = ask(client, mails)
    except (OSError, mailbox.Error, ManyhatsError, Unanswered) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        for mail, found in zip(mails, answers, strict=True):
            kept = {name: value for name, value in asdict(mail).items() if name != "text"}
            print(json.dumps(kept | found, ensure_ascii=False))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(as_table(mails, answers))
    console.print(f"{len(mails)} mails, {len(TASKS)} tasks; batches {'; '.join(batches)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
