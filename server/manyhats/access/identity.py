"""Who sends a request, once its key is known, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass

from manyhats.access.quotas import Quotas
from manyhats.core.call import Caller


@dataclass(frozen=True, slots=True)
class Identity:
    """`expires`: unix seconds. `problem`: why it may do nothing at all, though its key is right. `anonymous`: nobody
    has given a key."""

    caller: Caller
    scopes: frozenset[str]
    expires: float | None = None
    quotas: Quotas | None = None
    problem: str = ""
    anonymous: bool = False
