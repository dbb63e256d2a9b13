"""What is looked at, in the order in which it runs: the most telling first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """`module`: within this folder, with a function `run`. `seconds`: that it may take; `least`: with which it is worth
    beginning, and which earlier blocks leave to it where they can."""

    what: str
    module: str
    seconds: float
    least: float


BLOCKS = {
    "a": Block("the machine", "machine", 40, 15),
    "k": Block("the kernels beside float64", "kernels", 90, 35),
    "c": Block("correctness", "correctness", 120, 40),
    "e": Block("encoder speed", "encoder", 90, 40),
    "f": Block("decode speed", "decode", 140, 60),
    "g": Block("hot swap", "swap", 45, 20),
    "h": Block("profiles", "profiles", 30, 12),
    "d": Block("the project's own tests", "own_tests", 150, 40),
}


def limit(block: str, after: Sequence[str], left: float, slack: float = 1.0) -> float:
    """Seconds that a block may take of those that are left, so that the ones after it begin: as many of them, in their
    order, as there is time for."""
    own = BLOCKS[block]
    kept = 0.0
    for other in after:
        if own.least + kept + BLOCKS[other].least > left:
            break
        kept += BLOCKS[other].least
    return min(own.seconds * slack, left - kept)
