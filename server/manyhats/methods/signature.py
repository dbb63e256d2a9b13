"""Signatures: at which sites an adapter acts, and with which kinds of operations.

Adapters of the same method and targets have the same signature. Everything about a pass that depends on signatures only
is prepared once for all of these adapters.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Literal, NamedTuple

from manyhats.methods.operations import OperationKind

Category = Literal["input", "weight", "output", "embedding", "norm", "residual", "states", "key_value", "head"]

_numbers = itertools.count()


class Placement(NamedTuple):
    """The place of one operation of an adapter. `order`: how many operations of the adapter precede it at this site."""

    category: Category
    site: str | int
    order: int
    kind: OperationKind


class Signature:
    """All placements of an adapter. Equal signatures are one object. `own_weight`: whether it replaces a linear layer's
    weight."""

    __slots__ = ("__weakref__", "number", "own_weight", "placements")

    def __init__(self, placements: tuple[Placement, ...]) -> None:
        self.placements = placements
        self.number = next(_numbers)
        self.own_weight = any(one.category == "weight" for one in placements)


_INTERNED: weakref.WeakValueDictionary[tuple[Placement, ...], Signature] = weakref.WeakValueDictionary()


def signature_of(placements: tuple[Placement, ...]) -> Signature:
    """The signature with these placements."""
    signature = _INTERNED.get(placements)
    if signature is None:
        signature = _INTERNED.setdefault(placements, Signature(placements))
    return signature
