"""The sequences that the scheduler chose for one forward pass, and the outputs of that pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from manyhats.core.sampling_params import SampledToken
from manyhats.core.sequence import FinishReason, Sequence
from manyhats.errors import AdapterFailure, ManyhatsError


class ScheduledSequence(NamedTuple):
    """A sequence in a batch. `tokens`: how many of its next positions are computed.

    `cached`: keys and values of these positions are written to the cache, and those of earlier positions are read from
    it; else the pass computes the whole sequence without the cache.
    """

    sequence: Sequence
    tokens: int
    cached: bool


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The sequences of one forward pass, chosen by the scheduler."""

    sequences: list[ScheduledSequence]

    @property
    def tokens(self) -> int:
        """The number of tokens of all sequences."""
        return sum(one.tokens for one in self.sequences)


class SequenceOutput(NamedTuple):
    """The output of one step for one sequence: made by the runner, completed by `Scheduler.update`.

    `token`: the sampled token, where the pass computed the sequence's last position; `finished`: the reason why the
    sequence has ended; `error`: why the sequence failed, in which case the other fields mean nothing.
    """

    sequence: Sequence
    token: SampledToken | None = None
    finished: FinishReason | None = None
    error: Exception | None = None

    @classmethod
    def failed(cls, sequence: Sequence, error: Exception) -> SequenceOutput:
        """Of a sequence that failed with nothing else beside it: what is its own is its adapter."""
        if isinstance(error, ManyhatsError):
            return cls(sequence, error=error)
        failure = AdapterFailure(f"the adapter of the task {sequence.request.task} failed on this request")
        failure.__cause__ = error
        return cls(sequence, error=failure)

    @classmethod
    def not_finite(cls, sequence: Sequence) -> SequenceOutput:
        """Of a sequence with values that are not finite."""
        reason = f"the task {sequence.request.task} gives values that are not finite"
        return cls(sequence, error=AdapterFailure(reason))
