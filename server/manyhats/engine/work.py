"""The unit that the engine works on: some sequences of one task, asked for together."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from manyhats.engine.forward import Row

Output = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What one forward pass held. `tasks`: sequences by task; `seconds`: time in the model."""

    id: int
    tasks: dict[str, int]
    methods: tuple[str, ...]
    sequences: int
    tokens: int
    seconds: float


@dataclass(slots=True, eq=False)
class Work:
    """Set by who asks: `task`, `rows`, `priority`. The rest is the engine's.

    `future` gives one array per row (see `forward`). Times are `time.monotonic()` seconds.
    """

    task: str
    rows: list[Row]
    priority: int = 0
    future: Future[list[Output]] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    started: float = 0.0  # set by the engine: the first batch with a row of this work
    compute: float = 0.0  # set by the engine: seconds in the model, over all its batches
    waiting: int = 0  # set by the scheduler: rows not yet in a batch
    left: int = 0  # set by the engine: rows without an answer
    outputs: list[Output | None] = field(default_factory=list)
    batch: BatchReport | None = None  # set by the engine: the last batch with a row of this work

    def __post_init__(self) -> None:
        self.waiting = self.left = len(self.rows)
        self.outputs = [None] * len(self.rows)

    @property
    def due(self) -> float:
        """Orders the queue: the time of asking, moved by a second for each step of priority."""
        return self.queued - self.priority


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a work."""

    work: Work
    index: int

    @property
    def row(self) -> Row:
        """Its tokens and adapter."""
        return self.work.rows[self.index]

    @property
    def tokens(self) -> int:
        """Its length."""
        return len(self.row.ids)
