"""Parts of messages to callers that several packages word in the same way."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

_NAME_LENGTH = 80
_PREFIX = "Value error, "  # what pydantic puts before the text of a ValueError that a validator of ours raised


@dataclass(frozen=True, slots=True)
class FieldError:
    """What pydantic says about one field.

    `location`: the way to the field, names and positions; empty where the fault lies in no single field.
    `type`: pydantic's name for the kind of fault. `message`: pydantic's text. `input`: the value, where it was wanted.
    """

    location: tuple[str | int, ...]
    type: str
    message: str
    input: Any = None

    @property
    def field(self) -> str:
        """The location with dots between; empty where the fault lies in no single field."""
        return ".".join(map(str, self.location))

    @property
    def reason(self) -> str:
        """The message, without the words that pydantic puts before a validator's own."""
        return self.message.removeprefix(_PREFIX)


def first_error(error: ValidationError, with_input: bool = False) -> FieldError:
    """The first error of a pydantic model. `with_input`: with the value, which may copy all that was given."""
    return field_error(error.errors(include_url=False, include_context=False, include_input=with_input)[0])


def field_error(details: Mapping[str, Any]) -> FieldError:
    """One error from what `errors()` lists, of pydantic or of FastAPI."""
    return FieldError(tuple(details["loc"]), details["type"], details["msg"], details.get("input"))


def repeated_field(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """The first name that stands twice among the fields of one JSON object; None where all differ."""
    if len(dict(pairs)) == len(pairs):
        return None
    return next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; the name of its class, where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def pickle_refused(name: str, remedy: str) -> str:
    """Why a pickle file is not read. `remedy`: what the caller can do about it."""
    return f"'{name}' is a pickle file, which can run code and is never read here; {remedy}"


def printable(text: str) -> str:
    """A text that can be encoded. What a caller sent and names of files need not be text: such parts are escaped."""
    return text.encode(errors="backslashreplace").decode()


def short_repr(value: Any) -> str:
    """A value for a message, cut short."""
    return reprlib.repr(value)


def short_name(name: str) -> str:
    """A file's name for a message, cut short."""
    return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."
