"""The tokens that one sequence has had, as its penalties ask for them: kept from step to step, never counted anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from manyhats.core.sampling_params import SampledToken


class TokenHistory:
    """The prompt and the output of one sequence. `output`: the tokens that follow the prompt so far.

    What a call costs beside copying its answer grows with the tokens that came since the last one alone.
    """

    def __init__(self, prompt: Sequence[int], output: Iterable[int] = ()) -> None:
        self.output: list[int] = list(output)
        self._prompt = prompt
        self._seen = _TokenCounts()
        self._seen_output = -1  # tokens of the output that are counted there; -1: nor is the prompt
        self._counted = _TokenCounts()
        self._counted_output = 0

    def follow(self, output: Sequence[SampledToken]) -> None:
        """Takes the tokens that came since: `output` holds all of them, the known ones first."""
        self.output.extend(sampled.token for sampled in output[len(self.output) :])

    def seen(self) -> NDArray[np.int64]:
        """Each token of the prompt and of the output once, in no order."""
        if self._seen_output < 0:
            self._seen.add(self._prompt)
            self._seen_output = 0
        self._seen.add(self.output[self._seen_output :])
        self._seen_output = len(self.output)
        return self._seen.tokens

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Each token of the output once, in no order, and how often it is there."""
        self._counted.add(self.output[self._counted_output :])
        self._counted_output = len(self.output)
        return self._counted.tokens, self._counted.counts


class _TokenCounts:
    """Different tokens, and how often each was added."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._tokens = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.float32)

    @property
    def tokens(self) -> NDArray[np.int64]:
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> NDArray[np.float32]:
        return self._counts[: len(self._places)]

    def add(self, tokens: Sequence[int]) -> None:
        places = self._places
        for token in tokens:
            place = places.setdefault(token, len(places))
            if place == len(self._tokens):
                self._grow(max(2 * place, len(tokens), 16))
            self._tokens[place] = token
            self._counts[place] += 1

    def _grow(self, size: int) -> None:
        more = size - len(self._tokens)
        self._tokens = np.concatenate([self._tokens, np.zeros(more, dtype=np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.float32)])
