"""Bodies are JSON in UTF-8, unless their headers say otherwise: the routes read nothing else, but for uploads."""

from __future__ import annotations

import re

from starlette.types import Message, Receive, Scope

from manyhats.api.middleware.headers import FirstValues, all_values
from manyhats.errors import UnsupportedFormat

_READ = frozenset({"POST", "PUT", "PATCH"})  # methods whose bodies are read
_PLAIN = b"application/json"
_UPLOAD = re.compile(r"/v1/tasks/[^/]+/versions")
# What is JSON with bytes behind it, and the header that says so: a page cannot send it without a preflight.
_BINARY, _BINARY_HEADER = "application/octet-stream", b"inference-header-content-length"
_JSON = re.compile(r"application/([a-z0-9!#$&^_.+-]+\+)?json")
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_BOM = b"\xef\xbb\xbf"
_BOM_BEGINS = (b"", _BOM[:1])  # of a body that may have one
_QUOTED = 100  # characters of a header in a message


def is_upload(scope: Scope) -> bool:
    """Whether a request sends an adapter's files: to the route of versions, but for what says that it is JSON, which
    names a source of them."""
    path: str = scope["path"]
    if scope["method"] != "POST" or not path.endswith("/versions") or _UPLOAD.fullmatch(path) is None:
        return False
    return not says_json(scope)


def says_json(scope: Scope) -> bool:
    """Whether the first content type of a request says that its body is JSON."""
    given = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return _JSON.fullmatch(given.decode("latin-1").partition(";")[0].strip().lower()) is not None


def has_json_body(scope: Scope) -> bool:
    """Whether a request's body is read, as JSON."""
    return scope["method"] in _READ and not is_upload(scope)


def complaint(content_type: str) -> str | None:
    """What is wrong with the type of a body that is to be JSON; None where nothing is."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if not _JSON.fullmatch(kind):
        return f"the body's content type is {content_type[:_QUOTED]!r}"
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in _UTF8:
            return f"the body's charset is {value.strip()[:_QUOTED]!r}"
    return None


def check_content_type(scope: Scope, headers: FirstValues) -> None:
    """Raises UnsupportedFormat for a body whose type is not JSON in UTF-8.

    A page of another site can send text and forms without a preflight of the browser, but not JSON.
    """
    if headers.get(b"content-type") == _PLAIN and len(headers) == len(scope["headers"]):
        return
    binary = _BINARY_HEADER in headers
    for content_type in all_values(scope, headers, b"content-type"):
        if binary and content_type.strip().lower() == _BINARY:
            continue
        wrong = complaint(content_type) if content_type.strip() else None
        if wrong is not None:
            raise UnsupportedFormat(
                f"{wrong}; send JSON in UTF-8, with 'Content-Type: application/json' (curl: "
                "-H 'Content-Type: application/json')",
                param="Content-Type",
            )


def without_mark(receive: Receive) -> Receive:
    """The same messages, without a byte order mark at the beginning of the body."""
    prefix = b""  # what could be the beginning of a mark
    looking = True

    async def plain() -> Message:
        nonlocal prefix, looking
        message = await receive()
        if looking and not prefix and message.get("body", b"")[:1] not in _BOM_BEGINS:
            looking = False
        while looking and message["type"] == "http.request":
            prefix += message.get("body", b"")
            if len(prefix) < len(_BOM) and _BOM.startswith(prefix) and message.get("more_body", False):
                message = await receive()
                continue
            looking = False
            message = {**message, "body": prefix.removeprefix(_BOM)}
            prefix = b""
        return message

    return plain
