"""Texts that are being written: one stream each, and those of one question together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone import Encoded, Piece
from manyhats.engine.blocks import BLOCK, Key, first_key, next_key
from manyhats.engine.grammar import Grammar
from manyhats.engine.sampling import Chosen, Sampling
from manyhats.engine.scoring import PromptScores
from manyhats.engine.text import TextWriter
from manyhats.engine.work import BatchReport
from manyhats.methods.adapter import BoundAdapter

FinishReason = Literal["stop", "length"]


class Delta(NamedTuple):
    """What one step added to a text. `chosen`: None where the text ended without."""

    stream: Stream
    text: str
    chosen: Chosen | None
    finished: FinishReason | None


@dataclass(slots=True, eq=False)
class Stream:
    """One text. `prompt`: its tokens; `room`: the most new ones (0: the prompt is read alone); `ends`: tokens that end
    it, and are no part of it but for `kept_ends`; `allowed`: (vocabulary,) bool, the tokens that it may have; `scores`:
    what is asked about the prompt's tokens, shared by the texts that follow it.

    The fields behind `writing` are the model's thread's.
    """

    index: int
    adapter: BoundAdapter
    prompt: Sequence[int]
    room: int
    sampling: Sampling
    ends: frozenset[int]
    text: TextWriter
    grammar: Grammar | None = None
    kept_ends: frozenset[int] = frozenset()
    allowed: Tensor | None = None
    scores: PromptScores | None = None
    writing: Writing = field(init=False)
    random: np.random.Generator | None = None
    tokens: list[Chosen] = field(default_factory=list)
    finished: FinishReason | None = None
    ended_by: Chosen | None = None  # the token that ended it, where one did
    computed: int = 0  # places of its content whose keys and values are in the cache
    shared: list[int] = field(default_factory=list)  # blocks of the adapter's prefix
    blocks: list[int] = field(default_factory=list)  # of its content
    keys: list[Key] = field(default_factory=list)  # of its full blocks
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # prefix, then content
    prefix: int = 0  # rows of the prefix
    remembered: int = 0  # of its blocks, those that others can find
    ready_at: list[float] = field(default_factory=list)  # seconds: when each token was there

    def __post_init__(self) -> None:
        if self.sampling.temperature > 0:
            self.random = np.random.Generator(np.random.Philox(self.sampling.seed))

    @property
    def prompt_index(self) -> int:
        """Which of its question's prompts it follows."""
        return self.index // self.writing.each

    @property
    def unscored(self) -> bool:
        """Whether its prompt has to be scored yet."""
        return self.scores is not None and not self.scores.complete

    @property
    def scorer(self) -> bool:
        """Whether it is the one among the texts of its prompt that scores it."""
        return self.index % self.writing.each == 0

    @property
    def virtual(self) -> int:
        """Virtual tokens before its own."""
        return self.adapter.virtual_tokens

    @property
    def length(self) -> int:
        """Places of its content: virtual tokens, prompt, and new tokens."""
        return self.virtual + len(self.prompt) + len(self.tokens)

    def allowed_tokens(self, device: torch.device) -> Tensor | None:
        """(vocabulary,) bool: what may come next by its form and by what it may have at all; None: anything."""
        masks = [] if self.allowed is None else [self.allowed]
        if self.grammar is not None:
            masks.append(self.grammar.allowed())
        return torch.stack(masks).all(0).to(device) if masks else None

    def content(self, start: int, stop: int) -> list[int]:
        """Its tokens at some places; virtual ones are -1."""
        own = start - self.virtual, stop - self.virtual
        begin = max(own[0], 0)
        tokens = list(self.prompt[begin : own[1]]) if begin < len(self.prompt) else []
        if own[1] > len(self.prompt):
            new = slice(max(begin - len(self.prompt), 0), own[1] - len(self.prompt))
            tokens += [chosen.token for chosen in self.tokens[new]]
        return [-1] * max(min(stop, self.virtual) - start, 0) + tokens

    def prompt_keys(self) -> list[Key]:
        """Of the full blocks of what is to be read; at least one token is left to compute."""
        if self.adapter.whole:
            return []
        full = (self.length - 1) // BLOCK
        key = self.keys[-1] if self.keys else first_key(self.writing.digest)
        for i in range(len(self.keys), full):
            key = next_key(key, self.content(i * BLOCK, (i + 1) * BLOCK))
            self.keys.append(key)
        return self.keys[:full]

    def piece(self, count: int) -> Piece:
        """Its next `count` places, for a pass."""
        start, stop = self.computed, self.computed + count
        virtual = max(min(stop, self.virtual) - start, 0)
        return Piece(
            self.content(start, stop)[virtual:],
            start + virtual - self.virtual,
            virtual,
            self.adapter.position_shift,
            self.rows[: self.prefix + stop],
            self.prefix,
            self.adapter.prefix_left_out,
        )

    def scoring(self, count: int, row: int) -> tuple[PromptScores, int, range] | None:
        """What its next `count` places tell of its prompt, for `score_pass`. `row`: where they begin in the pass."""
        if self.scores is None or self.scores.complete:
            return None
        begin = self.computed - self.virtual  # of the prompt, the place that stands in `row`
        return self.scores, row - begin, self.scores.wanted(begin, begin + count)


@dataclass(slots=True, eq=False)
class Writing:
    """The texts of one question. `digest`: names the adapter's weights; `listener` is called in the model's thread.

    `future` is done when all are. Times are `time.monotonic()` seconds. See `engine.work.Work`, its twin for answers
    that take one pass.
    """

    task: str
    digest: str
    streams: list[Stream]
    each: int = 1  # texts of one prompt, which stand side by side
    priority: int = 0
    listener: Callable[[Delta], None] | None = None
    future: Future[None] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)
    started: float = 0.0  # set by the engine: the first pass with one of its texts
    compute: float = 0.0  # set by the engine: seconds in the model, over all its passes
    batch: BatchReport | None = None  # set by the engine: the last pass with one of its texts
    prompts: Sequence[tuple[str | None, Encoded]] = ()  # texts, where they were given as such, and their tokens
    left: int = 0

    def __post_init__(self) -> None:
        self.left = len(self.streams)
        for stream in self.streams:
            stream.writing = self

    @property
    def due(self) -> float:
        """Orders the queue: the time of asking, moved by a second for each step of priority."""
        return self.queued - self.priority

    @property
    def output_tokens(self) -> int:
        """New tokens of all its texts."""
        return sum(len(stream.tokens) for stream in self.streams)
