"""Where an adapter acts, and how: what adapters of one shape have in common.

Everything about a pass that depends on this alone is made once for it, so that the number of adapters costs nothing.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Literal, NamedTuple

from manyhats.methods.operations import Kind

Category = Literal["input", "weight", "output", "embedding", "norm", "residual", "states", "key_value", "head"]

_numbers = itertools.count()


class Placement(NamedTuple):
    """One operation of an adapter. `stage`: how many of the adapter's own stand before it at this site."""

    category: Category
    site: str | int
    stage: int
    kind: Kind


class Signature:
    """All placements of an adapter. Equal ones are one object."""

    __slots__ = ("__weakref__", "number", "own_weight", "placements")

    def __init__(self, placements: tuple[Placement, ...]) -> None:
        self.placements = placements
        self.number = next(_numbers)
        self.own_weight = any(one.category == "weight" for one in placements)


_KNOWN: weakref.WeakValueDictionary[tuple[Placement, ...], Signature] = weakref.WeakValueDictionary()


def signature_of(placements: tuple[Placement, ...]) -> Signature:
    """The signature of these placements."""
    found = _KNOWN.get(placements)
    if found is None:
        found = _KNOWN.setdefault(placements, Signature(placements))
    return found
