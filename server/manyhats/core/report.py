"""A summary of one forward pass, for metrics and for the answers that carry it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A summary of one forward pass. `tasks`: number of sequences by task; `seconds`: time in the model; `signatures`:
    how many different sets of operations its adapters have; `ended`: when, by `time.monotonic()`."""

    id: int
    tasks: Mapping[str, int]
    methods: tuple[str, ...]
    sequences: int
    tokens: int
    seconds: float
    signatures: int = 0
    ended: float = field(default_factory=time.monotonic)
