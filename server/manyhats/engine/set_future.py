"""Gives answers to futures that may be cancelled from another thread at any moment."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from typing import Any


def set_future(future: Future[Any], outcome: Any) -> None:
    """Sets the result, or the exception where `outcome` is one; what is done already stays."""
    if future.done():
        return
    with suppress(Exception):  # cancelled between the two lines
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
