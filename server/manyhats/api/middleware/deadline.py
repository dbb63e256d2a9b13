"""How long a caller waits for an answer: `X-Request-Timeout`, in seconds."""

from __future__ import annotations

import math

from manyhats.core.call import Call
from manyhats.errors import InvalidRequest
from manyhats.messages import short_repr

NAME = "X-Request-Timeout"
KEY = NAME.lower().encode()


def limit_by_header(call: Call, given: bytes, received: float) -> None:
    """Has the call end so many seconds after it was received. Raises InvalidRequest for what is no time.

    `received`: by `time.monotonic()`. More than the server's own `request_timeout` is allowed and means no more.
    """
    text = given.decode("latin-1").strip()
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0) or "_" in text:
        raise InvalidRequest(f"{NAME} is {short_repr(text)}; give seconds above 0, as 2.5", param=NAME)
    call.limit(received + seconds)
