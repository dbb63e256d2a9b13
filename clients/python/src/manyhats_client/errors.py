"""Everything that the client raises on purpose.

    ManyhatsError
    ├── APIError                 the server answered with an error: status, type, message, param, code
    │   ├── BadRequest           400  malformed, or a value that is not allowed
    │   ├── AuthenticationError  401  no key, or an unknown one
    │   ├── PermissionDenied     403  a key that may not do this
    │   ├── NotFound             404  no such task, version or alias
    │   ├── Conflict             409  the request does not fit the present state
    │   ├── TooLarge             413  over a limit on size or count
    │   ├── UnsupportedFormat    415  files that are not safetensors, or not an adapter
    │   ├── UnprocessableAdapter 422  a well-formed adapter that does not fit the backbone
    │   ├── Overloaded           429  a queue is full; `retry_after` says when to try again
    │   ├── ServerNotReady       503  starting or draining
    │   ├── DeadlineExceeded     504  the server had no answer within the time it allows
    │   └── ServerError          any other 5xx
    ├── InvalidAnswer            the answer is not in the form of a Manyhats server
    ├── WrongKind                the task is of another kind than the call is for
    ├── ConnectionFailed         no connection, or one that broke
    └── Timeout                  no answer within the client's time

A status that has no class of its own is a plain APIError. Wrong use that needs no server to see (a
task's name that is empty, a folder with no files) is a ValueError, a missing path FileNotFoundError.

Each has a `request_id`, the `X-Request-Id` that the server's log has, too; None where no request was made.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import httpx
from pydantic import ValidationError

from manyhats_client.models import ErrorBody, ErrorEnvelope

REQUEST_ID = "X-Request-Id"

_QUOTED = 200  # characters of a body that is not understood


class ManyhatsError(Exception):
    """Base class. `request_id`: the `X-Request-Id` of the request that failed."""

    request_id: str | None = None

    def of(self, request_id: str | None) -> Self:
        """The same error, as that of a request."""
        self.request_id = request_id
        return self

    def __str__(self) -> str:
        text = str(self.args[0]) if self.args else ""
        return f"{text} (request {self.request_id})" if self.request_id else text


class APIError(ManyhatsError):
    """The server answered with an error.

    `type`, `message`, `param` and `code` are the fields of the answer; `param` names the field or file
    at fault, where there is one. `retry_after`: seconds, where the server said so.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        param: str | None = None,
        code: int | str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, type, message, param, code, retry_after)
        self.status = status
        self.type = type
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({self.status} {self.type}{request})"


class BadRequest(APIError):
    """Malformed, or a value that is not allowed."""


class AuthenticationError(APIError):
    """No key, or an unknown one."""


class PermissionDenied(APIError):
    """A key that may not do this."""


class NotFound(APIError):
    """No such task, version or alias."""


class Conflict(APIError):
    """The request does not fit the present state."""


class TooLarge(APIError):
    """Over a limit on size or count."""


class UnsupportedFormat(APIError):
    """Files that are not safetensors, or not an adapter."""


class UnprocessableAdapter(APIError):
    """A well-formed adapter that does not fit the backbone."""


class Overloaded(APIError):
    """A queue is full. `retry_after`: seconds until it is worth trying again, where the server said so."""


class ServerError(APIError):
    """The server failed."""


class ServerNotReady(APIError):
    """The server is starting or draining."""


class DeadlineExceeded(APIError):
    """The server had no answer within the time it allows."""


class InvalidAnswer(ManyhatsError):
    """The answer is not in the form of a Manyhats server: a wrong address, or a proxy's own page."""


class WrongKind(ManyhatsError):
    """The task is of another kind than the call is for."""


class ConnectionFailed(ManyhatsError):
    """No connection, or one that broke. `sent`: whether some of the request may have reached the server."""

    def __init__(self, message: str, sent: bool = True) -> None:
        super().__init__(message, sent)
        self.message = message
        self.sent = sent

    def __str__(self) -> str:
        return super().__str__() if self.sent else self.message  # what was not sent has no line in the server's log


class Timeout(ManyhatsError):
    """No answer within the client's time."""


_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequest,
    401: AuthenticationError,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedFormat,
    422: UnprocessableAdapter,
    429: Overloaded,
    503: ServerNotReady,
    504: DeadlineExceeded,
}


def from_body(status: int, body: ErrorBody, retry_after: float | None = None) -> APIError:
    """The exception for a status and the fields of an error."""
    cls = _BY_STATUS.get(status, ServerError if status >= 500 else APIError)
    return cls(status, body.type, body.message, body.param, body.code, retry_after)


def from_response(response: httpx.Response) -> APIError:
    """The exception for an answer that is not a success; its body has been read."""
    try:
        body = ErrorEnvelope.model_validate_json(response.content).error
    except ValidationError:
        # Not the server's own: a proxy's page, or a redirect, which is not followed.
        where = f" (to {response.headers['location']})" if "location" in response.headers else ""
        text = response.text.strip()[:_QUOTED]
        status = f"{response.status_code} {response.reason_phrase}".strip()
        body = ErrorBody(message=f"{response.url} answered {status}{where}" + (f": {text}" if text else ""))
    return from_body(response.status_code, body, _retry_after(response)).of(request_id_of(response))


def request_id_of(response: httpx.Response) -> str | None:
    """The id of an answer's request: what the server says, or what was sent."""
    found: str | None = response.headers.get(REQUEST_ID) or response.request.headers.get(REQUEST_ID)
    return found


def from_transport(error: httpx.RequestError) -> ManyhatsError:
    """The exception for a request that got no answer."""
    return _from_transport(error).of(error.request.headers.get(REQUEST_ID))


def _from_transport(error: httpx.RequestError) -> ManyhatsError:
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    what = f"{error.request.method} {error.request.url}: {reason}"
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return ConnectionFailed(what, sent=False)
        case httpx.TimeoutException():
            return Timeout(what)
        case httpx.DecodingError():
            return InvalidAnswer(what)
        case _:
            return ConnectionFailed(what)


def _retry_after(response: httpx.Response) -> float | None:
    """The header `Retry-After` in seconds: a number or a date."""
    value = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
