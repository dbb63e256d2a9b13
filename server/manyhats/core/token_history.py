"""Token counts of one sequence for its penalties, updated from step to step instead of being counted again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from manyhats.core.sampling_params import SampledToken


class TokenHistory:
    """Counts the tokens of a prompt and its output. `output`: the tokens that have been generated so far.

    Besides copying the result, the cost of a call grows only with the tokens that were added since the last call.
    """

    def __init__(self, prompt: Sequence[int], output: Iterable[int] = ()) -> None:
        self.output: list[int] = list(output)
        self._prompt = prompt
        self._seen = _TokenCounts()
        self._seen_output = -1  # how many output tokens `_seen` has; -1: not even the prompt's
        self._counted = _TokenCounts()
        self._counted_output = 0

    def follow(self, output: Sequence[SampledToken]) -> None:
        """Adds the new tokens of `output`, which holds all sampled tokens so far."""
        self.output.extend(sampled.token for sampled in output[len(self.output) :])

    def seen(self) -> NDArray[np.int64]:
        """The distinct tokens of the prompt and the output, in any order: (tokens,) int64."""
        if self._seen_output < 0:
            self._seen.add(self._prompt)
            self._seen_output = 0
        self._seen.add(self.output[self._seen_output :])
        self._seen_output = len(self.output)
        return self._seen.tokens

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The distinct tokens of the output, in any order, and how often each occurs: (tokens,) int64 and float32."""
        self._counted.add(self.output[self._counted_output :])
        self._counted_output = len(self.output)
        return self._counted.tokens, self._counted.counts


class _TokenCounts:
    """Distinct tokens, and how often each was added."""

    def __init__(self) -> None:
        self._indices: dict[int, int] = {}
        self._tokens = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.float32)

    @property
    def tokens(self) -> NDArray[np.int64]:
        return self._tokens[: len(self._indices)]

    @property
    def counts(self) -> NDArray[np.float32]:
        return self._counts[: len(self._indices)]

    def add(self, tokens: Sequence[int]) -> None:
        indices = self._indices
        for token in tokens:
            index = indices.setdefault(token, len(indices))
            if index == len(self._tokens):
                self._grow(max(2 * index, len(tokens), 16))
            self._tokens[index] = token
            self._counts[index] += 1

    def _grow(self, size: int) -> None:
        more = size - len(self._tokens)
        self._tokens = np.concatenate([self._tokens, np.zeros(more, dtype=np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.float32)])
