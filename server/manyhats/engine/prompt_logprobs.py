"""Log probabilities of a prompt's own tokens.

Such a prompt is computed from its first token on, even where blocks of it are cached: the cache holds keys and values,
but no logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manyhats.backbone import Backbone
from manyhats.core.sequence import PromptLogprobsSink
from manyhats.engine.read_out import vocabulary_logits
from manyhats.errors import AdapterFailure
from manyhats.methods.plan import Plan

_MAX_LOGITS = 1 << 24  # computed at once: 64 MiB in float32


class PromptLogprob(NamedTuple):
    """A token of a prompt. `logprob`: the natural logarithm of its probability after the tokens before it; `rank`: its
    rank in the vocabulary by that (1: the likeliest); `top`: the likeliest tokens at its position with theirs."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


class PromptLogprobs:
    """Collects the log probabilities of one prompt, chunk by chunk. `top`: how many of the likeliest tokens are
    returned for each position.

    The first token has none, because no token precedes it.
    """

    def __init__(self, prompt: Sequence[int], top: int) -> None:
        self.prompt = prompt
        self.top = top
        self.scores: list[PromptLogprob | None] = [None] * len(prompt)
        self._missing = max(len(prompt) - 1, 0)

    @property
    def complete(self) -> bool:
        """Whether all tokens but the first have their log probability."""
        return self._missing == 0

    def wanted(self, start: int, stop: int) -> range:
        """The prompt's positions from `start` to `stop` whose logits predict another token of the prompt."""
        return range(max(start, 0), max(min(stop, len(self.prompt) - 1), max(start, 0)))

    def put(self, first: int, logits: Tensor) -> None:
        """Adds tokens' log probabilities, from the logits at the positions `first`, `first + 1`, ...: (positions,
        vocabulary). Raises AdapterFailure where logits are not finite."""
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise AdapterFailure("the model gives values that are not finite for the prompt")
        raw = torch.log_softmax(logits.float(), -1)
        tokens = self.prompt[first + 1 : first + 1 + len(raw)]
        own = raw.gather(1, torch.tensor(tokens, device=raw.device)[:, None])
        ranks = (raw > own).sum(1) + 1
        tops: list[tuple[tuple[int, float], ...]] = [()] * len(raw)
        if self.top:
            values, ids = raw.topk(min(self.top, raw.shape[1]), -1)
            tops = [tuple(zip(*one, strict=True)) for one in zip(ids.tolist(), values.tolist(), strict=True)]
        entries = zip(tokens, own[:, 0].tolist(), ranks.tolist(), tops, strict=True)
        for position, entry in enumerate(entries, first + 1):
            self._missing -= self.scores[position] is None
            self.scores[position] = PromptLogprob(*entry)


def compute_prompt_logprobs(
    backbone: Backbone, plan: Plan, states: Tensor, requested: Sequence[tuple[PromptLogprobsSink, int, range] | None]
) -> None:
    """Computes the log probabilities of prompts from a pass, some positions at a time to bound the logits' memory.

    `states`: (tokens of the pass, hidden). `requested`: for each sequence of the plan where its log probabilities go,
    the row of its prompt's first position (negative where that lies before the pass), and the prompt's positions whose
    logits are needed.
    """
    size = max(_MAX_LOGITS // int(backbone.config.vocab_size), 1)
    for i, one in enumerate(requested):
        if one is None:
            continue
        sink, row, positions = one
        for chunk in _chunks(positions, size):
            rows: list[list[int]] = [[] for _ in requested]
            rows[i] = [row + position for position in chunk]
            logits = vocabulary_logits(backbone, plan, states, rows)
            assert logits is not None
            sink.put(chunk.start, logits)


def _chunks(positions: range, size: int) -> Iterator[range]:
    for start in range(positions.start, positions.stop, size):
        yield positions[start - positions.start : start - positions.start + size]
