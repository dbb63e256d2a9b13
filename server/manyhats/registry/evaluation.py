"""How good a version was on labelled examples, and what followed: kept with the version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a version beside the stable one. `value`: None where it could not be evaluated. `baseline`: the
    stable version's value on the same examples, None without one. `max_drop`: how much worse it may be. `created`: unix
    seconds. `activated`: whether `alias` points at the version since; `reason`: why, or why not."""

    metric: str
    value: float | None
    baseline: float | None
    baseline_version: int | None
    examples: int
    max_drop: float
    alias: str
    activated: bool
    reason: str
    created: float

    def refused(self, reason: str) -> Evaluation:
        """The same, with another end."""
        return replace(self, activated=False, reason=reason)


def evaluation_of(row: Mapping[str, Any]) -> Evaluation:
    """What a stored row says. Raises TypeError for one that was never written here."""
    return Evaluation(**row)
