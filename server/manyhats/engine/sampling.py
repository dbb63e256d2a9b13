"""From logits to tokens: every row with its own settings, all rows together.

transformers' processors take one setting for a whole batch, and those of its continuous batching sort the vocabulary
once a processor; here one sort serves top-k, top-p and min-p, with the same results. Where a processor looks at one row
alone (the repetition penalty) transformers' own is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

_CANDIDATES = 256  # looked at first: mostly they hold all that top-p or min-p leaves


class BadWords:
    """Sequences of tokens that a text must not have, each of at least one token."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self._last: dict[tuple[int, ...], set[int]] = {}  # by the tokens before the last one
        for word in words:
            self._last.setdefault(tuple(word[:-1]), set()).add(word[-1])
        self._lengths = sorted({len(before) for before in self._last})

    def completing(self, written: Sequence[int]) -> list[int]:
        """Tokens that would complete one of them."""
        tokens: set[int] = set()
        for length in self._lengths:
            if length <= len(written):
                tokens |= self._last.get(tuple(written[len(written) - length :]), set())
        return list(tokens)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one text's tokens are chosen. `temperature` 0: the likeliest. `seed` None: another text each time.

    `presence` and `frequency` are taken off the logits of tokens that were written already; `repetition` divides
    positive and multiplies negative logits of tokens of the prompt too (Keskar et al. 2019, section 4.1). `logprobs`:
    None, or how many of the likeliest tokens are told with each token.

    `bad_words`: sequences of tokens that are never written. `min_tokens`: as long as fewer are written, no token is
    chosen that ends the text.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    bad_words: BadWords | None = None
    min_tokens: int = 0

    @property
    def looks_back(self) -> bool:
        """Whether what was written already matters."""
        penalties = self.repetition != 1 or self.presence != 0 or self.frequency != 0
        return penalties or self.bad_words is not None or self.min_tokens > 0

    @property
    def truncated(self) -> bool:
        """Whether some tokens are never drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


NO_TOKEN = -1  # in place of a token, where the constraints of a text leave none


class Chosen(NamedTuple):
    """A token, the logarithm of its probability before any setting acted, and the likeliest ones' where asked for."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class Draw:
    """One row to choose for. `seen`: the prompt's tokens; `written`: those since, where the
    sampling looks back; `allowed`: (vocabulary,) bool; `ends`: tokens that end the text."""

    sampling: Sampling
    random: np.random.Generator | None
    seen: Sequence[int]
    written: Sequence[int]
    allowed: Tensor | None = None
    ends: frozenset[int] = frozenset()

    @property
    def constrained(self) -> bool:
        """Whether some tokens may not be chosen at all."""
        return self.allowed is not None or self.sampling.bad_words is not None or self.sampling.min_tokens > 0


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[Chosen]:
    """One token for each row of `logits`, (rows, vocabulary), which are changed.

    What is chosen for a row depends on its own logits and settings alone. A row whose constraints leave no token gets
    NO_TOKEN.
    """
    logits = logits.float()
    told = {i: d.sampling.logprobs for i, d in enumerate(draws) if d.sampling.logprobs is not None}
    raw = {i: torch.log_softmax(logits[i], -1) for i in told}
    impossible: list[int] = []
    for i, draw in enumerate(draws):
        _adjust(logits[i], draw)
        if draw.constrained and bool(torch.isneginf(logits[i]).all()):
            impossible.append(i)
            logits[i] = 0  # or its shares would not be numbers
    tokens = logits.argmax(-1).tolist()
    drawn = [i for i, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if drawn:
        for i, token in zip(drawn, _draw(logits[drawn], [draws[i] for i in drawn]), strict=True):
            tokens[i] = token
    for i in impossible:
        tokens[i] = NO_TOKEN
        told.pop(i, None)
    chosen: list[Chosen] = []
    for i, token in enumerate(tokens):
        if i not in told:
            chosen.append(Chosen(token, None, ()))
            continue
        top: tuple[tuple[int, float], ...] = ()
        if told[i]:
            values, ids = raw[i].topk(min(told[i] or 0, len(raw[i])))
            top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        chosen.append(Chosen(token, float(raw[i][token]), top))
    return chosen


def _adjust(row: Tensor, draw: Draw) -> None:
    """Penalties, biases and what is not allowed; in place."""
    s = draw.sampling
    if s.repetition != 1:
        ids = torch.tensor([[*draw.seen, *draw.written]], device=row.device)
        row.copy_(RepetitionPenaltyLogitsProcessor(s.repetition)(ids, row[None])[0])
    if (s.presence or s.frequency) and draw.written:
        ids, counts = torch.unique(torch.tensor(draw.written, device=row.device), return_counts=True)
        row[ids] -= s.presence + s.frequency * counts
    if s.bias:
        ids = torch.tensor(list(s.bias), device=row.device)
        row[ids] += torch.tensor(list(s.bias.values()), device=row.device)
    forbidden = _forbidden(draw)
    if forbidden:
        row[torch.tensor(forbidden, device=row.device)] = float("-inf")
    if draw.allowed is not None:
        row.masked_fill_(~draw.allowed, float("-inf"))


def _forbidden(draw: Draw) -> list[int]:
    """Tokens that would complete a bad word, or end a text that is too short."""
    s, written = draw.sampling, draw.written
    tokens = [] if s.bad_words is None else s.bad_words.completing(written)
    if len(written) < s.min_tokens:
        tokens.extend(draw.ends)
    return tokens


def _draw(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Inverse of the cumulated probabilities at one random number a row."""
    temperatures = torch.tensor([d.sampling.temperature for d in draws], device=logits.device)
    scores = logits / temperatures[:, None]
    scores -= scores.amax(-1, keepdim=True)
    weights = scores.exp_()
    at = torch.tensor([_uniform(d) for d in draws], device=logits.device, dtype=torch.float64)
    tokens = [0] * len(draws)
    plain = [i for i, d in enumerate(draws) if not d.sampling.truncated]
    if plain:
        sums = weights[plain].double().cumsum(-1)
        for i, place in zip(plain, _places(sums, at[plain]), strict=True):
            tokens[i] = place
    for i, draw in enumerate(draws):
        if draw.sampling.truncated:
            tokens[i] = _draw_truncated(weights[i], draw.sampling, at[i])
    return tokens


def _places(sums: Tensor, at: Tensor) -> list[int]:
    """The first places where the cumulated weights pass a share of their total."""
    places = torch.searchsorted(sums, (at * sums[:, -1])[:, None], right=True)[:, 0]
    return places.clamp_(max=sums.shape[-1] - 1).tolist()


def _draw_truncated(weights: Tensor, s: Sampling, at: Tensor) -> int:
    """As transformers' warpers do, one after another: the k likeliest, of these the fewest that have p together, of
    these the ones that have min_p times the likeliest's share."""
    count = min(s.top_k or _CANDIDATES, len(weights))
    while True:
        values, ids = weights.topk(count)
        kept = values.double()
        sums = kept.cumsum(0)
        # top-p is a share of what top-k leaves
        whole = sums[-1] if s.top_k else weights.sum(dtype=torch.float64)
        enough = s.top_k > 0 or count == len(weights)
        enough = enough or (s.top_p < 1 and bool(sums[-1] >= s.top_p * whole))
        enough = enough or (s.min_p > 0 and bool(kept[-1] < s.min_p * kept[0]))
        if enough:
            break
        count = len(weights)
    keep = torch.ones_like(kept, dtype=torch.bool)
    if s.top_p < 1:
        keep &= sums - kept < s.top_p * whole
    if s.min_p > 0:
        keep &= kept >= s.min_p * kept[0]
    keep[0] = True
    left = kept[: int(keep.sum())]  # what is kept stands in front: the weights fall
    return int(ids[_places(left.cumsum(0)[None], at[None])[0]])


def _uniform(draw: Draw) -> float:
    assert draw.random is not None, "a text that is drawn has a source of random numbers"
    return float(draw.random.random())
