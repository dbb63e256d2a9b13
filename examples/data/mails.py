"""What a reader sees of a mail: its subject and body, without reply marks, markup and footers."""

from __future__ import annotations

import email.errors
import email.header
import email.message
import html
import re
from typing import Any

from .rows import fold

_BODY_CHARACTERS = 30_000  # what is looked at of a body; far more than is used of it

REPLY = re.compile(r"\s*(?:(?:re|fwd?|aw|sv)\s*(?:\[\d+\])?\s*:|\[[^\]]{1,30}\])\s*", re.IGNORECASE)
HIDDEN = re.compile(r"<!--.*?-->|<(script|style|head|title)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
BLOCK = re.compile(r"</?(?:p|br|div|t[adhr]|table|tr|li|[uo]l|h[1-6]|hr|center|img)\b[^<>]*>", re.IGNORECASE)
TAG = re.compile(r"</?[a-z!][^<>]*>", re.IGNORECASE)
MARKUP = re.compile(r"<(?:html|body|table|font|br|p|a href)\b", re.IGNORECASE)
FOOTERS = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (
        r"^-{20,}\s*^This sf\.net email.*\Z",
        r"^_{20,}\s*^[^\n]*(?:mailing list|@lists\.|listinfo).*\Z",
        r"^_{20,}\s*^(?:Do You Yahoo|Get your free|Send and receive|Chat with|Join the world|MSN ).*\Z",
        r"^-+ Yahoo! Groups Sponsor -+.*?^-{30,}[^\n]*$",
        r"^[ \t]*Yahoo! Groups Sponsor\s*^[ \t]*ADVERTISEMENT.*\Z",
        r"^[ \t]*To unsubscribe from this group, send.*\Z",
        r"^You have received this message because you subscribed.*\Z",
        r"^(?:URL|Date): [^\n]*$",  # put in by a gateway from news feeds
        r"^[> ]*_{20,}\s*$",
        r"^[^\n]*(?:mailing list$|mailing list <|/listinfo/|List maintainer:|Linux Users' Group:)[^\n]*$",
        r"^[^\n]*spamassassin\.taint\.org[^\n]*$",  # stands for addresses that were made anonymous
        r"^-- *$(?:\n[^\n]*){0,12}\s*\Z",  # a signature, by the old convention
    )
]


def without_reply_marks(subject: str) -> str:
    """A subject without re:, fwd: and the mailing list's [name] before it."""
    while marked := REPLY.match(subject):
        subject = subject[marked.end() :]
    return subject.strip()


def decoded_header(value: Any) -> str:
    """A header as one line of text, whatever it was encoded in."""
    try:
        return fold(str(email.header.make_header(email.header.decode_header(str(value or "")))))
    except (LookupError, UnicodeError, ValueError, email.errors.HeaderParseError):
        return fold(str(value))


def part_text(part: email.message.Message) -> str:
    """One part of a mail as text."""
    if str(part.get("content-transfer-encoding", "")).strip().lower() not in {"base64", "quoted-printable"}:
        return str(part.get_payload())
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    try:
        return content.decode(part.get_content_charset("utf-8"))
    except (LookupError, UnicodeError):
        return content.decode("latin-1")


def visible_text(markup: str) -> str:
    """What a reader sees of an HTML mail."""
    return html.unescape(TAG.sub("", BLOCK.sub("\n", HIDDEN.sub("", markup))))


def without_footers(body: str) -> str:
    """A mail's body without signatures and what mailing lists and free mail services append."""
    body = body[:_BODY_CHARACTERS]
    for footer in FOOTERS:
        body = footer.sub("", body)
    return body


def mail_text(message: email.message.Message) -> str:
    """The readable body: the plain parts, or the HTML parts where there are none."""
    texts: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    for part in message.walk():
        if not part.is_multipart() and part.get_content_type() in texts:
            texts[part.get_content_type()].append(part_text(part))
    plain = "\n".join(texts["text/plain"])
    if not plain.strip() or MARKUP.search(plain):
        plain = visible_text("\n".join([plain, *texts["text/html"]] if not plain.strip() else [plain]))
    return without_footers(plain.replace("\r\n", "\n"))
