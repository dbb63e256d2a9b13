"""What one pass held, for metrics and for those who asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one pass held. `tasks`: sequences by task; `seconds`: time in the model."""

    id: int
    tasks: Mapping[str, int]
    methods: tuple[str, ...]
    sequences: int
    tokens: int
    seconds: float
