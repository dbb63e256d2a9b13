"""Bodies are JSON in UTF-8, unless their headers say otherwise: the routes read nothing else, but for uploads."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyhats.api.errors import response
from manyhats.errors import UnsupportedFormat

_READ = frozenset({"POST", "PUT", "PATCH"})  # methods whose bodies are read
_UPLOAD = re.compile(r"/v1/tasks/[^/]+/versions")
_JSON = re.compile(r"application/([a-z0-9!#$&^_.+-]+\+)?json")
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_BOM = b"\xef\xbb\xbf"
_QUOTED = 100  # characters of a header in a message


def is_upload(scope: Scope) -> bool:
    """Whether a request uploads an adapter: by its route, not by what the body says it is."""
    return scope["method"] == "POST" and _UPLOAD.fullmatch(scope["path"]) is not None


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


class JsonBodies:
    """Refuses bodies whose type is not JSON in UTF-8, and removes a byte order mark.

    A page of another site can send text and forms without a preflight of the browser, but not JSON.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _READ or is_upload(scope):
            await self._app(scope, receive, send)
            return
        for content_type in Headers(scope=scope).getlist("content-type"):
            wrong = complaint(content_type) if content_type.strip() else None
            if wrong is not None:
                error = UnsupportedFormat(
                    f"{wrong}; send JSON in UTF-8, with 'Content-Type: application/json' (curl: "
                    "-H 'Content-Type: application/json')",
                    param="Content-Type",
                )
                await response(error)(scope, receive, send)
                return
        await self._app(scope, _without_mark(receive), send)


def _without_mark(receive: Receive) -> Receive:
    """The same messages, without a byte order mark at the beginning of the body."""
    prefix = b""  # what could be the beginning of a mark
    looking = True

    async def plain() -> Message:
        nonlocal prefix, looking
        message = await receive()
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
