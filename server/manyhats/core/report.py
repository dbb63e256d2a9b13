"""A summary of one forward pass, for metrics and for the answers that carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A summary of one forward pass. `tasks`: number of sequences by task; `seconds`: time in the model."""

    id: int
    tasks: Mapping[str, int]
    methods: tuple[str, ...]
    sequences: int
    tokens: int
    seconds: float
