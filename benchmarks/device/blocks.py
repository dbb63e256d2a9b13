"""What is looked at, in the order in which it runs."""

from __future__ import annotations

from typing import NamedTuple


class Block(NamedTuple):
    """`module`: within this folder, with a function `run`; `seconds`: that it may take."""

    what: str
    module: str
    seconds: float


BLOCKS = {
    "a": Block("the machine", "machine", 30),
    "c": Block("correctness", "correctness", 80),
    "e": Block("encoder speed", "encoder", 90),
    "f": Block("decode speed", "decode", 90),
    "g": Block("hot swap", "swap", 35),
    "h": Block("profiles", "profiles", 30),
    "d": Block("the project's own tests", "own_tests", 60),
}
