"""What a model thinks of a prompt: the logarithm of the probability of each of its tokens.

A prompt that is scored is read from its beginning, whatever the cache knows of it: of a cached place there are keys and
values, but no logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manyhats.backbone import Backbone
from manyhats.core.sequence import PromptScoring
from manyhats.engine.read_out import vocabulary_logits
from manyhats.errors import EngineFailure
from manyhats.methods.plan import Plan

_MOST_LOGITS = 1 << 24  # at once: 64 MiB in float32


class Score(NamedTuple):
    """A token of a prompt, the logarithm of its probability after the tokens before it, its place among all tokens of
    the vocabulary by that (1: the likeliest), and the likeliest ones in its place."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


class PromptScores:
    """The scores of one prompt, as they come. `top`: how many of the likeliest tokens are told in each place.

    The first token has none, as nothing stands before it.
    """

    def __init__(self, prompt: Sequence[int], top: int) -> None:
        self.prompt = prompt
        self.top = top
        self.scores: list[Score | None] = [None] * len(prompt)
        self._missing = max(len(prompt) - 1, 0)

    @property
    def complete(self) -> bool:
        """Whether all tokens but the first have their score."""
        return self._missing == 0

    def wanted(self, start: int, stop: int) -> range:
        """Places of the prompt among `start` to `stop` whose logits tell of the next token of the prompt."""
        return range(max(start, 0), max(min(stop, len(self.prompt) - 1), max(start, 0)))

    def put(self, first: int, logits: Tensor) -> None:
        """Scores tokens from the logits in the places `first`, `first + 1`, ...: (places, vocabulary)."""
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise EngineFailure("the model gives values that are not finite for the prompt")
        raw = torch.log_softmax(logits.float(), -1)
        tokens = self.prompt[first + 1 : first + 1 + len(raw)]
        own = raw.gather(1, torch.tensor(tokens, device=raw.device)[:, None])
        ranks = (raw > own).sum(1) + 1
        tops: list[tuple[tuple[int, float], ...]] = [()] * len(raw)
        if self.top:
            values, ids = raw.topk(min(self.top, raw.shape[1]), -1)
            tops = [tuple(zip(*one, strict=True)) for one in zip(ids.tolist(), values.tolist(), strict=True)]
        told = zip(tokens, own[:, 0].tolist(), ranks.tolist(), tops, strict=True)
        for place, one in enumerate(told, first + 1):
            self._missing -= self.scores[place] is None
            self.scores[place] = Score(*one)


def score_pass(
    backbone: Backbone, plan: Plan, states: Tensor, asked: Sequence[tuple[PromptScoring, int, range] | None]
) -> None:
    """Scores prompts of a pass, some places at a time: the logits of all together may not fit.

    `states`: (tokens of the pass, hidden). `asked`: for each sequence of the plan its scores, the row of its prompt's
    first place (it may lie before the pass), and the places of the prompt that are to be scored.
    """
    size = max(_MOST_LOGITS // int(backbone.config.vocab_size), 1)
    for i, one in enumerate(asked):
        if one is None:
            continue
        scores, row, places = one
        for some in _in_parts(places, size):
            rows: list[list[int]] = [[] for _ in asked]
            rows[i] = [row + place for place in some]
            logits = vocabulary_logits(backbone, plan, states, rows)
            assert logits is not None
            scores.put(some.start, logits)


def _in_parts(places: range, size: int) -> Iterator[range]:
    for start in range(places.start, places.stop, size):
        yield places[start - places.start : start - places.start + size]
