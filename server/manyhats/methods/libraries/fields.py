"""The fields of a file's config: which are set, and of which type."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import first_error, short_repr

Model = TypeVar("Model", bound=BaseModel)


def text_or_none(value: Any) -> str | None:
    """The value if it is a text, else None; for fields that are only passed on."""
    return value if isinstance(value, str) else None


def reject_fields(config: Mapping[str, Any], known: Container[str], of: str = "") -> None:
    """Raises AdapterMismatch for a field that is set and not understood; empty, false and zero are not set."""
    for name, value in config.items():
        if name not in known and value not in (None, False, 0, [], {}, ""):
            raise AdapterMismatch(
                f"the field '{name}'{of} is set to {short_repr(value)}, which is not supported", param=name
            )


def validate(model: type[Model], fields: Mapping[str, Any], where: str, unnamed: str) -> Model:
    """A pydantic model of a file's fields. Raises InvalidRequest for the first that is wrong.

    `where`: put before its name in the message; `unnamed`: named instead where the error is in no single field.
    """
    try:
        # Strict, so that the text "true" is not a truth value; as JSON, so that a list is accepted for a tuple.
        return model.model_validate_json(json.dumps(dict(fields)), strict=True)
    except ValidationError as error:
        first = first_error(error)
        field = first.field or unnamed
        raise InvalidRequest(f"{where}: {field}: {first.message}", param=field) from None


def flag(config: Mapping[str, Any], field: str) -> bool:
    """A field that must be true or false; where it is missing or null it is false. Raises InvalidRequest."""
    value = config.get(field)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{field} must be true or false, not {short_repr(value)}", param=field)
    return bool(value)
