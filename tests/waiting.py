"""Waiting for what is to happen, without depending on how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0  # seconds that a condition may take; only a failing test waits as long
STEP = 0.005


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The condition's value, as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(STEP)
    return value
