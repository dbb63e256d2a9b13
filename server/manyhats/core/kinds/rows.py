"""Records of data files as examples of a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from manyhats.core.kinds.examples import Columns, Example
from manyhats.core.kinds.training import KindTraining
from manyhats.messages import first_error


def example_of(record: Mapping[Any, Any], kind: KindTraining, columns: Columns) -> Example:
    """A record of a file as an example. Raises ValueError with the reason, naming the column."""
    wanted = kind.columns(columns)
    given = {ours: record[theirs] for ours, theirs in wanted.items()}
    given |= {ours: record[theirs] for ours, theirs in kind.optional_columns(columns).items() if theirs in record}
    try:
        return kind.row.model_validate(given).example()
    except ValidationError as error:
        raise ValueError(_reason(error, wanted)) from None


def _reason(error: ValidationError, wanted: dict[str, str]) -> str:
    first = first_error(error, with_input=True)
    reason = first.reason
    if first.type in ("string_too_short", "string_pattern_mismatch", "too_short"):
        reason = "is empty"
    if not first.location:
        return reason
    column = wanted.get(str(first.location[0]), str(first.location[0]))
    return (
        f"column '{column}' {reason}"
        if reason == "is empty"
        else f"column '{column}': {reason} (got {first.input!r:.60})"
    )
