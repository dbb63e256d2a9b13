"""Memory that runs out in a pass: what its sequence is told, and fewer tokens in the passes after it, for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from manyhats.core.sequence import Sequence
from manyhats.errors import OutOfMemory

logger = logging.getLogger(__name__)

_SMALLEST = 64  # tokens: below that a pass takes hardly less memory
_PAUSE = 30.0  # seconds without running out of memory, until a pass may have twice as many tokens again


def release_memory(device: torch.device) -> None:
    """Gives back what torch keeps of what is no longer used."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def out_of_memory(sequence: Sequence, tokens: int, device: torch.device) -> OutOfMemory:
    """The error of a sequence whose pass does not fit, though no other is in it. `tokens`: of that pass."""
    return OutOfMemory(
        f"a pass with {tokens} tokens of the task {sequence.request.task} and nothing else takes more memory than is "
        f"free on {device}; send a shorter input, or give the server more memory (--slot-memory and --cache-memory "
        "say what adapters and the cache may take of it)"
    )


class PassBound:
    """How many tokens a pass may have: `most`, and after a pass for which there was no memory half as many as it had,
    until a pause without another lets it double again, back to `most`.

    Only the model's thread uses it. `least`: it is never lower. `clock`: in seconds.
    """

    def __init__(self, most: int, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._least = min(max(least, _SMALLEST), most)
        self._clock = clock
        self._changed = 0.0
        self.tokens = most
        self.exceeded = 0  # passes for which there was no memory

    @property
    def lowered(self) -> bool:
        """Whether a pass may have fewer tokens than usual."""
        return self.tokens < self._most

    def lower(self, tokens: int) -> None:
        """There was no memory for a pass of so many tokens."""
        self.exceeded += 1
        self._changed = self._clock()
        lowered = max(min(self.tokens, tokens // 2), self._least)
        if lowered < self.tokens:
            self.tokens = lowered
            logger.warning("no memory for a pass of %d tokens; the next have at most %d", tokens, lowered)

    def recover(self) -> None:
        """Doubles the bound where the pause has passed."""
        if self.lowered and self._clock() - self._changed >= _PAUSE:
            self._changed = self._clock()
            self.tokens = min(self.tokens * 2, self._most)
            logger.info("a pass may have %d tokens again", self.tokens)
