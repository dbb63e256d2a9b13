"""Every answer carries `X-Request-Id`: the caller's own, where it sent one, so that logs can be compared."""

from __future__ import annotations

import itertools
import re
import secrets

from starlette.types import Message, Send

from manyhats.api.middleware.headers import FirstValues
from manyhats.core.call import Call

HEADER = "X-Request-Id"
_NAME = HEADER.lower().encode()
_GIVEN = re.compile(rb"[\x21-\x7e]{1,128}")
_PROCESS = secrets.token_hex(8)
_numbers = itertools.count()


def new_id() -> str:
    """An id that no other request has, of this process or of another."""
    return f"{_PROCESS}{next(_numbers):016x}"


def request_id(headers: FirstValues) -> str:
    """The id of a request: what its client gave, where that can stand in a log."""
    given = headers.get(_NAME)
    return given.decode("ascii") if given is not None and _GIVEN.fullmatch(given) else new_id()


def with_request_id(send: Send, call: Call) -> Send:
    """Puts the call's id into the answer's headers, and notes the answer's status."""
    header = (_NAME, call.id.encode("ascii"))

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            call.status = call.status or message["status"]
            message["headers"] = [one for one in message.get("headers", ()) if one[0] != _NAME] + [header]
        await send(message)

    return sent
