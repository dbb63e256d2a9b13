"""Collects the sampling parameters of a batch's rows on the host, for one copy to the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.staging import StagingBuffer
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.token_history import TokenHistory

# How many of the likeliest tokens are looked at first; mostly top-p and min-p keep fewer. Which number it is depends on
# the row's own parameters only, so that a row's result does not depend on its neighbours.
_CANDIDATES = (64, 256, 4096)
_CANDIDATES_WITHOUT_TOP_K = 256  # of rows without top-k
_MIN_WEIGHT = 1e-45  # less than any weight above 0; tokens of weight 0 are never sampled
_MIN_TOP = 32  # how many of the likeliest tokens are computed for logprobs, unless more are requested


class SamplingInput(NamedTuple):
    """One row to sample a token for.

    `random`: gives one number for each token; None where the temperature is 0. `prompt`, `output`: token ids; the
    output may be left empty where `params.looks_back` is False. `constraint`: the tokens that are allowed next, on the
    host: (vocabulary,) bool, or a bitmask, the lowest bit first, (vocabulary / 32 rounded up,) int32. `history`: the
    token counts of this prompt and output; without it the tokens are counted again at each step.
    """

    params: SamplingParams
    random: np.random.Generator | None
    prompt: Sequence[int]
    output: Sequence[int]
    constraint: Tensor | None = None
    history: TokenHistory | None = None


@dataclass(frozen=True, slots=True)
class Truncated:
    """Rows with top-k, top-p or min-p, for which the `count` likeliest tokens are looked at first.

    The row indices are staged under `name`, and under `name`.numbers, (5, rows): the random number, the temperature,
    top-k, top-p (infinite: none) and min-p (above 0). `shares`: indices into `rows` of those whose top-p is a share of
    the whole vocabulary's weights. `limited`, `nucleus`: whether any row has a top-k, a top-p.
    """

    name: str
    count: int
    rows: list[int]
    shares: list[int]
    limited: bool
    nucleus: bool


class SamplingLayout:
    """The parameters of all rows. `arrays`: by name, for a staging buffer; see `put_into`.

    `adjusted`: whether logits change before sampling. `logprobs`: rows whose log probabilities are requested, and
    `tops`: how many of the likeliest tokens for each. The rows "weighed" need the weights of the whole vocabulary:
    the first `plain` of them are sampled without truncation, and the `shares` rows after them are those of
    `truncated[shared]` whose top-p is a share of the whole vocabulary.
    """

    def __init__(self, inputs: Sequence[SamplingInput], vocabulary: int, exact: type[np.floating[Any]]) -> None:
        self._inputs = inputs
        self._vocabulary = vocabulary
        self._exact = exact
        self.arrays: dict[str, NDArray[Any]] = {}
        self.adjusted = False
        self.logprobs: list[int] = []
        self.tops: list[int] = []
        self.truncated: list[Truncated] = []
        self.plain = 0
        self.shares = 0
        self.shared = 0
        self._put_logprobs()
        self._put_adjustments()
        self._put_sampling()

    @property
    def top(self) -> int:
        """How many of the likeliest tokens are computed: mostly a constant, so that rows do not affect each other."""
        most = max(self.tops, default=0)
        return min(max(most, _MIN_TOP), self._vocabulary) if most else 0

    def put_into(self, staging: StagingBuffer) -> None:
        """Puts all arrays into a staging buffer that has not been committed."""
        for name, array in self.arrays.items():
            staging.put(name, array)

    def _put(self, name: str, array: NDArray[Any]) -> None:
        self.arrays[name] = array

    def _put_rows(self, name: str, rows: Sequence[int]) -> None:
        if list(rows) != list(range(len(self._inputs))):  # no index is needed for all rows in order
            self._put(name, np.array(rows, dtype=np.int64))

    def _put_logprobs(self) -> None:
        for i, one in enumerate(self._inputs):
            if one.params.logprobs is not None:
                self.logprobs.append(i)
                self.tops.append(one.params.logprobs)
        if self.logprobs:
            self._put_rows("logprobs", self.logprobs)

    def _put_adjustments(self) -> None:
        changes = _LogitChanges(self._vocabulary)
        masked: list[int] = []
        masks: list[NDArray[np.uint8]] = []
        for i, one in enumerate(self._inputs):
            changes.add(i, one)
            allowed = [mask for mask in (one.constraint, one.params.allowed_tokens) if mask is not None]
            if allowed:
                masked.append(i)
                masks.append(np.bitwise_and.reduce([_bits(mask, self._vocabulary) for mask in allowed]))
        for name, array in changes.arrays().items():
            self._put(name, array)
        if masks:
            self._put("masks", np.bitwise_not(np.stack(masks)))
            self._put_rows("masked", masked)
        self.adjusted = bool(masks) or not changes.empty

    def _put_sampling(self) -> None:
        """Takes one random number for each row that is not greedy, whatever its other parameters."""
        vocabulary = self._vocabulary
        plain: list[int] = []
        plain_numbers: list[tuple[float, ...]] = []
        rows: dict[int, list[int]] = {}
        numbers: dict[int, list[tuple[float, ...]]] = {}
        shares: list[int] = []
        unlimited = min(_CANDIDATES_WITHOUT_TOP_K, vocabulary)
        for i, (params, random, *_) in enumerate(self._inputs):
            if params.temperature <= 0:
                continue
            assert random is not None, "a sequence that is sampled has a source of random numbers"
            number = random.random()
            if not params.truncated:
                plain.append(i)
                plain_numbers.append((number, params.temperature))
                continue
            count = unlimited
            if params.top_k:
                count = next((c for c in _CANDIDATES if params.top_k < c < vocabulary), vocabulary)
            limit = min(params.top_k, vocabulary) or vocabulary
            top_p = params.top_p if params.top_p < 1 else math.inf
            if not params.top_k and params.top_p < 1:
                shares.append(len(rows.get(count, ())))
            rows.setdefault(count, []).append(i)
            numbers.setdefault(count, []).append(
                (number, params.temperature, limit, top_p, max(params.min_p, _MIN_WEIGHT))
            )
        for count, some in rows.items():
            if count == unlimited:
                self.shared = len(self.truncated)
            limited = any(self._inputs[i].params.top_k > 0 for i in some)
            nucleus = any(self._inputs[i].params.top_p < 1 for i in some)
            part = Truncated(f"truncated {count}", count, some, shares if count == unlimited else [], limited, nucleus)
            self._put_rows(part.name, some)
            self._put(f"{part.name}.numbers", np.array(numbers[count], dtype=self._exact).T)
            if 0 < len(part.shares) < len(some):
                self._put(f"{part.name}.shares", np.array(part.shares, dtype=np.int64))
            self.truncated.append(part)
        self.plain, self.shares = len(plain), len(shares)
        for i in shares:
            plain.append(rows[unlimited][i])
            plain_numbers.append(numbers[unlimited][i][:2])
        if plain:
            self._put_rows("weighed", plain)
            self._put("weighed.numbers", np.array(plain_numbers, dtype=self._exact).T)


class _LogitChanges:
    """Collects changes of single logits, as indices into (rows * vocabulary,). No list has an index twice."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._indices: dict[str, list[NDArray[np.int64]]] = {}
        self._amounts: dict[str, list[NDArray[np.float32]]] = {}
        self._forbidden: list[int] = []

    @property
    def empty(self) -> bool:
        return not self._indices and not self._forbidden

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The indices by the name of the change, and under `name`.amounts by how much."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, indices in self._indices.items():
            arrays[name] = np.concatenate(indices)
            arrays[f"{name}.amounts"] = np.concatenate(self._amounts[name])
        if self._forbidden:
            arrays["forbidden"] = np.array(self._forbidden, dtype=np.int64)
        return arrays

    def add(self, row: int, one: SamplingInput) -> None:
        p = one.params
        start = row * self._vocabulary
        if p.logit_bias:
            tokens = np.fromiter(p.logit_bias.keys(), dtype=np.int64, count=len(p.logit_bias))
            amounts = np.fromiter(p.logit_bias.values(), dtype=np.float32, count=len(p.logit_bias))
            self._add("bias", start, tokens, amounts)
        if not p.looks_back:
            return
        history = one.history or TokenHistory(one.prompt, one.output)
        if p.repetition_penalty != 1:
            seen = history.seen()
            seen = seen[seen < self._vocabulary]  # a prompt may have ids above the size of the logits
            self._add("repeated", start, seen, np.full(len(seen), p.repetition_penalty, dtype=np.float32))
        if (p.presence_penalty or p.frequency_penalty) and one.output:
            tokens, counts = history.counts()
            amounts = np.float32(p.presence_penalty) + np.float32(p.frequency_penalty) * counts
            self._add("penalty", start, tokens, -amounts)
        if p.bad_words is not None:
            self._forbidden.extend(start + token for token in p.bad_words.completing(one.output))
        if len(one.output) < p.min_tokens:
            self._forbidden.extend(start + token for token in p.eos_token_ids)

    def _add(self, name: str, start: int, tokens: NDArray[np.int64], amounts: NDArray[np.float32]) -> None:
        self._indices.setdefault(name, []).append(start + tokens)
        self._amounts.setdefault(name, []).append(amounts)


def _bits(mask: Tensor, vocabulary: int) -> NDArray[np.uint8]:
    """A constraint as a bitmask of bytes, the lowest bit first. Raises ValueError for one of another vocabulary."""
    array = mask.numpy()
    size = -(-vocabulary // 8)
    if array.dtype == np.bool_ and len(array) == vocabulary:
        return np.packbits(array, bitorder="little")
    if array.dtype == np.int32 and len(array) == -(-vocabulary // 32):
        return array.view(np.uint8)[:size]
    raise ValueError(
        f"a constraint is ({vocabulary},) bool or ({-(-vocabulary // 32)},) int32, not {array.shape} {array.dtype}"
    )
