"""A scheduled sequence, and its adapter as it acts in one pass."""

from __future__ import annotations

from typing import NamedTuple

from manyhats.core.batch import ScheduledSequence
from manyhats.core.sequence import Sequence
from manyhats.methods.bound_adapter import BoundAdapter


class Entry(NamedTuple):
    """A sequence of a pass. `tokens`, `cached`: see `ScheduledSequence`."""

    adapter: BoundAdapter
    sequence: Sequence
    tokens: int
    cached: bool

    @property
    def samples(self) -> bool:
        """Whether a token is sampled after this pass."""
        params = self.sequence.sampling
        if params is None or not params.max_new_tokens:
            return False
        return not self.cached or self.sequence.computed + self.tokens == self.sequence.length

    @property
    def first_half(self) -> int:
        """How many of its tokens could be computed by a pass before the rest; 0: they are computed together."""
        sequence = self.sequence
        if not self.cached:
            return 0
        virtual_left = max(sequence.virtual - sequence.computed, 0)  # virtual tokens are computed in one chunk
        half = max(self.tokens // 2, virtual_left + 1 if virtual_left else 1)
        return half if half < self.tokens else 0


def make_entry(scheduled: ScheduledSequence) -> Entry:
    """The entry of a sequence in a batch."""
    sequence, tokens, cached = scheduled
    adapter = sequence.adapter
    if cached:
        begins = sequence.virtual > 0 and sequence.computed == 0
        adapter = adapter.first_chunk if begins else adapter.later_chunks
    return Entry(adapter, sequence, tokens, cached)
