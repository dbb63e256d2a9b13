"""Parts of what a caller is told."""

from __future__ import annotations

import reprlib
from typing import Any


def short_repr(value: Any) -> str:
    """A caller's value for a message, cut short."""
    return reprlib.repr(value)
