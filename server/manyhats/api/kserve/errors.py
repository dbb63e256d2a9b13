"""KServe's errors: `{"error"}`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from manyhats.api.errors import describe
from manyhats.api.schemas import AnswerBody


class ErrorText(AnswerBody):
    """What went wrong."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"error": "there is no task 'x'"}]})

    error: str


# What /openapi.json says of such routes' errors.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorText, "description": "The request cannot be answered as it is."},
    "5XX": {"model": ErrorText, "description": "The server cannot answer it now."},
}


def error_body(error: Exception) -> tuple[int, Any]:
    """Status and body for an exception."""
    status, body = describe(error)
    return status, {"error": body["error"]["message"]}
