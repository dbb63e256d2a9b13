"""What came back: answers, refusals, what was wrong and what was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_KEPT = 20  # of each kind of finding, in words
_QUOTED = 600


@dataclass(slots=True)
class Tally:
    """`compared`: answers of tasks that were found equal to those alone; `absent`: 404 where a task was away, or on its
    way; `refused`: by status; `routes`: answers by route; `wrong`, `lost`, `unclear`: in words, the first of them."""

    answered: int = 0
    compared: int = 0
    absent: int = 0
    near_ties: int = 0
    hung_up: int = 0
    malformed: int = 0
    held_back: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    words: dict[str, list[str]] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    def fault(self, kind: str, *words: Any) -> None:
        """Counts what must not happen. `kind`: wrong, lost, ..."""
        self.faults[kind] += 1
        kept = self.words.setdefault(kind, [])
        if len(kept) < _KEPT:
            kept.append(" | ".join(str(word)[:_QUOTED] for word in words))

    def as_json(self) -> dict[str, Any]:
        """All counts, and the latencies' quantiles in milliseconds."""
        ordered = sorted(self.latencies)
        at = {
            f"p{int(q * 100)}": round(ordered[int(q * (len(ordered) - 1))] * 1e3, 1)
            for q in (0.5, 0.9, 0.99)
            if ordered
        }
        return {
            "answered": self.answered, "compared": self.compared, "absent": self.absent, "near_ties": self.near_ties,
            "hung_up": self.hung_up, "malformed": self.malformed, "held_back": self.held_back,
            "refused": {str(status): count for status, count in sorted(self.refused.items())},
            "routes": dict(self.routes), "changes": dict(self.changes), "faults": dict(self.faults),
            "words": self.words, "latency_ms": at,
        }  # fmt: skip
