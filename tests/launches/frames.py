"""How many Python functions are called while another one runs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any


@contextmanager
def frames_within(outer: CodeType, *, without: str) -> Iterator[Counter[str]]:
    """Counts the calls of Python functions beneath each call of `outer`, by the module's file and the function.

    Not counted are functions of files whose path contains `without`, and what these call.
    """
    calls: Counter[str] = Counter()
    depth = 0  # of calls beneath `outer`; 0 outside
    left_out = 0  # of calls beneath one of the files that are left out

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal depth, left_out
        if event == "call":
            if left_out or (depth and without in frame.f_code.co_filename):
                left_out += 1
            elif depth or frame.f_code is outer:
                if depth:
                    calls[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1
                depth += 1
        elif event == "return":
            if left_out:
                left_out -= 1
            elif depth:
                depth -= 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(before)
