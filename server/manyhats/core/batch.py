"""What the scheduler chose for one pass, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from manyhats.core.sampling_params import SampledToken
from manyhats.core.sequence import FinishReason, Sequence


class ScheduledSequence(NamedTuple):
    """`tokens`: how many of the sequence's next positions go into the pass. `cached`: their keys and values go into the
    cache and those before them are read from it; else the pass holds the whole sequence."""

    sequence: Sequence
    tokens: int
    cached: bool


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One pass. Made by the scheduler."""

    sequences: list[ScheduledSequence]

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(one.tokens for one in self.sequences)


class SequenceOutput(NamedTuple):
    """What a step made of one sequence: made by the runner, completed by the scheduler's `update`.

    `token`: what was sampled, where the pass came to the sequence's end; `finished`: why no token follows any more;
    `error`: why the sequence failed, in which case nothing else holds.
    """

    sequence: Sequence
    token: SampledToken | None = None
    finished: FinishReason | None = None
    error: Exception | None = None
