"""Values by the pattern that a module's name matches: PEFT's `rank_pattern` and `alpha_pattern`.

The patterns come from uploads. Python's regular expressions can take years for one of 30 characters, so these are
matched by an engine that takes linear time, that of pydantic's `pattern`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from manyhats.errors import InvalidRequest
from manyhats.messages import short_repr

_LENGTH = 200  # characters
_REPETITIONS = 4  # of `*`, `+` and `{` in one pattern
_PATTERNS = 4096
# A repeated group, many repetitions by number, and syntax on which the two engines differ.
_COMPLEX = re.compile(r"\)[*+{]|\{\d*,?\d{3}|\[\[|&&|--|~~|\\[<>]")


def by_pattern(config: Mapping[str, Any], field: str, default: Any) -> Callable[[str], Any]:
    """The value for a module: that of the first pattern that matches the end of its name, else `default`.

    That is PEFT's rule; the patterns are in the file's order. Raises InvalidRequest for an invalid or too
    complex regular expression.
    """
    patterns = config.get(field) or {}
    if not isinstance(patterns, dict):
        raise InvalidRequest(f"{field} must be an object, not {short_repr(patterns)}", param=field)
    if len(patterns) > _PATTERNS:
        raise InvalidRequest(f"{field} has {len(patterns)} patterns; at most {_PATTERNS} are followed", param=field)
    compiled = [(_compiled(key, field), value) for key, value in patterns.items()]

    def value_of(module: str) -> Any:
        return next((value for matches, value in compiled if matches(module)), default)

    return value_of


def _compiled(key: str, field: str) -> Callable[[str], bool]:
    if len(key) > _LENGTH or _COMPLEX.search(key) or len(re.findall(r"[*+{]", key)) > _REPETITIONS:
        raise InvalidRequest(f"the pattern {short_repr(key)} of {field} is too complex", param=field)
    try:
        re.compile(f"({key})")  # what PEFT would raise for
        validator = SchemaValidator(core_schema.str_schema(pattern=rf"^(?:.*\.)?(?:{key})$"))
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the pattern {short_repr(key)} is no regular expression: {error}", param=field) from None
    except SchemaError:
        raise InvalidRequest(
            f"the pattern {short_repr(key)} of {field} is too complex: it may not look around or back", param=field
        ) from None

    def matches(module: str) -> bool:
        try:
            validator.validate_python(module)
        except ValidationError:
            return False
        return True

    return matches
