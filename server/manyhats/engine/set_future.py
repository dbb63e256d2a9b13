"""Sets futures that another thread may cancel at any moment."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from typing import Any


def set_future(future: Future[Any], outcome: Any) -> None:
    """Sets the result, or the exception where `outcome` is one. Does nothing to a future that is done."""
    if future.done():
        return
    with suppress(Exception):  # the future was cancelled after the check above
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
