"""Types of request parameters that several kinds of task share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from manyhats.backbone.sentence import MODES, Mode


def integral(value: Any) -> Any:
    """Accepts 3.0 for 3: JSON has one type of number, and some clients write 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def at_most(limit: int) -> Callable[[Any], Any]:
    """Rejects a list that is too long before its entries are checked."""

    def check(value: Any) -> Any:
        if isinstance(value, (list, dict)) and len(value) > limit:
            raise PydanticCustomError(
                "too_long", "at most {most} entries, not {size}", {"most": limit, "size": len(value)}
            )
        return value

    return check


Integer = Annotated[int, BeforeValidator(integral)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
STOP_AT_FIRST = Field(fail_fast=True)  # of a list: checking stops at the first entry that is wrong
TopK = Annotated[int, Field(ge=1, le=100)]

# How states are pooled: a mode, several whose vectors are concatenated, or `none` for every token's state.
PoolingSetting = Literal["none"] | Mode | Annotated[list[Mode], Field(min_length=1, max_length=len(MODES))]
