"""Has Python's garbage collector leave alone what stays for the life of the process.

A backbone and a thousand adapters are some hundred thousand objects. Walking through them takes a sixth of the time of
loading the adapters, two thirds of that of reading the records of ten thousand tasks, and stops all threads at each
collection.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_SELDOM = 50_000  # new objects between two collections, in place of Python's 700


@contextmanager
def collected_seldom() -> Iterator[None]:
    """While many objects are made that stay, there is little to collect."""
    usual = gc.get_threshold()
    gc.set_threshold(_SELDOM, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def keep_for_good() -> None:
    """What is here now is not walked through any more. It still goes with the last reference to it."""
    gc.collect()
    gc.freeze()
