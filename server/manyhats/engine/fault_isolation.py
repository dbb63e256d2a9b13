"""Finds the sequence that a pass fails for: a failing batch is bisected, in batch order, until it is alone.

A pass that fails for want of memory is run in halves too, though no sequence is at fault: a batch by its sequences, a
chunk of one prompt by its tokens. Only what fails alone, and again after unused memory was given back, gets an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Many

import torch

from manyhats.backbone.device_memory import is_out_of_memory
from manyhats.core.batch import ScheduledSequence, SequenceOutput
from manyhats.engine.entry import Entry, make_entry
from manyhats.engine.out_of_memory import out_of_memory, release_memory

logger = logging.getLogger(__name__)

Done = list[tuple[Many[Entry], float]]  # the passes that ran, and their seconds


class FaultIsolation:
    """`run_pass` runs entries in one pass; `after_failure` is called after each that fails, and raises where the device
    is lost. `on_out_of_memory` is called with the tokens of each pass for which there was no memory."""

    def __init__(
        self,
        run_pass: Callable[[Many[Entry]], list[SequenceOutput]],
        after_failure: Callable[[], None],
        device: torch.device,
    ) -> None:
        self._run_pass = run_pass
        self._after_failure = after_failure
        self._device = device
        self.on_out_of_memory: Callable[[int], None] = lambda tokens: None

    def run(self, entries: Many[Entry], done: Done, *, last: bool = False) -> list[SequenceOutput]:
        """One output for each entry. Appends the successful passes to `done`. `last`: memory was given back before."""
        if not entries:
            return []
        begin = time.monotonic()
        try:
            outputs = self._run_pass(entries)
        except Exception as error:
            self._after_failure()
            exhausted = is_out_of_memory(error)
            tokens = sum(entry.tokens for entry in entries)
            if exhausted:
                self.on_out_of_memory(tokens)
            if len(entries) == 1 and (last or not exhausted):
                sequence = entries[0].sequence
                if exhausted:
                    return [SequenceOutput(sequence, error=out_of_memory(sequence, tokens, self._device))]
                logger.error("a sequence of the task %s failed", sequence.request.task, exc_info=error)
                return [SequenceOutput.failed(sequence, error)]
        else:
            done.append((entries, time.monotonic() - begin))
            return outputs
        # Outside the handler, whose exception would keep the failed pass's tensors.
        if exhausted:
            release_memory(self._device)
        if len(entries) == 1:
            return self._run_smaller(entries[0], done)
        middle = len(entries) // 2
        return self.run(entries[:middle], done) + self.run(entries[middle:], done)

    def _run_smaller(self, entry: Entry, done: Done) -> list[SequenceOutput]:
        """Runs a sequence again that found no memory: half of its tokens after the other, where they may be apart."""
        half = entry.first_half
        if not half:
            return self.run([entry], done, last=True)
        sequence, begin = entry.sequence, entry.sequence.computed
        (first,) = self.run([make_entry(ScheduledSequence(sequence, half, cached=True))], done)
        if first.error is not None:
            return [first]
        sequence.computed = begin + half  # as the scheduler will note it, once all of them are computed
        try:
            return self.run([make_entry(ScheduledSequence(sequence, entry.tokens - half, cached=True))], done)
        finally:
            sequence.computed = begin
