"""A request and its sequences, from being asked to being answered.

There is one kind of sequence. `PoolingParams` say that one pass over all its tokens answers it (a vector, a head's
logits, what stands behind masks); `SamplingParams` that tokens follow it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone import Encoded
from manyhats.backbone.sentence import Pooling
from manyhats.core.report import BatchReport
from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.core.token_history import TokenHistory
from manyhats.methods.bound_adapter import BoundAdapter

FinishReason = Literal["stop", "length"]
Output = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """One pass over all tokens. `pooling` (for adapters without a head): how the last hidden states become one vector
    (see `backbone.sentence`), or `none`; `skip`: how many tokens at the beginning are not pooled. `masks`: asks for the
    language-model head on these tokens instead."""

    pooling: Pooling = "mean"
    skip: int = 0
    masks: tuple[int, ...] = ()


class TokenConstraint(Protocol):
    """What a form lets come next; see `engine.structured_output`."""

    def bits(self) -> Tensor:
        """(vocabulary / 32 rounded up,) int32 on the host, with a bit for each token, the lowest first: whether it may
        come next. Holds until the next call. Raises as `accept`."""
        ...

    def accept(self, token: int) -> bool:
        """Takes a token; whether the form is complete. Raises InvalidRequest where it cannot be followed."""
        ...


class TextDecoder(Protocol):
    """Turns tokens into text as they come; see `engine.detokenizer`."""

    skip_special: bool
    stop: str | None

    @property
    def text(self) -> str: ...

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class PromptScoring(Protocol):
    """The scores of a prompt's own tokens as they come; see `engine.prompt_scores`."""

    @property
    def complete(self) -> bool: ...

    def wanted(self, start: int, stop: int) -> range: ...

    def put(self, first: int, logits: Tensor) -> None: ...


@dataclass(slots=True, eq=False)
class Sequence:
    """One input under way. All of its fields that belong to one thread are written by that thread alone."""

    # who asks
    adapter: BoundAdapter
    prompt: Many[int]  # its tokens
    params: PoolingParams | SamplingParams
    type_ids: Many[int] = ()  # of each token; empty: all 0
    index: int = 0  # among its request's sequences
    constraint: TokenConstraint | None = None
    decoder: TextDecoder | None = None  # of those that generate; the detokenizer's thread uses it
    scores: PromptScoring | None = None  # shared by the sequences that follow the same prompt

    # its request, which sets it
    request: Request = field(init=False)

    # the model's thread: the scheduler and the cache
    output: list[SampledToken] = field(default_factory=list)  # tokens that follow the prompt, computed or about to be
    computed: int = 0  # positions, virtual tokens included, whose keys and values are in the cache
    prefix_blocks: list[int] = field(default_factory=list)  # of the adapter's prefix
    prefix_rows: int = 0
    blocks: list[int] = field(default_factory=list)  # of its own positions: the block table
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks
    cached_blocks: int = 0  # of its blocks, those that others can find
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # prefix, then its own
    # the model's thread: the sampler. None where nothing is drawn
    random: np.random.Generator | None = None
    history: TokenHistory | None = None  # None where nothing looks back on its tokens
    # the model's thread: the runner
    pooled: Output | None = None
    # the model's thread, read by others: why no token follows any more (an end token, the length, a complete form)
    finished: FinishReason | None = None
    ended_by: SampledToken | None = None  # the end token, where one came and is no part of the text

    # the detokenizer's thread
    shown: list[SampledToken] = field(default_factory=list)  # the tokens of the text that is answered
    token_times: list[float] = field(default_factory=list)  # `time.monotonic()`, of each of them
    finish_reason: FinishReason | None = None  # of the text; a stop string may end it before the model's thread does

    def __post_init__(self) -> None:
        if isinstance(self.params, SamplingParams) and self.params.temperature > 0:
            self.random = np.random.Generator(np.random.Philox(self.params.seed))
        if isinstance(self.params, SamplingParams) and self.params.looks_back:
            self.history = TokenHistory(self.prompt)

    @property
    def sampling(self) -> SamplingParams | None:
        """Its sampling parameters; None where one pass answers it."""
        return self.params if isinstance(self.params, SamplingParams) else None

    @property
    def prompt_index(self) -> int:
        """Which of its request's prompts it follows."""
        return self.index // self.request.each

    @property
    def virtual(self) -> int:
        """Virtual tokens before its own."""
        return self.adapter.virtual_tokens

    @property
    def length(self) -> int:
        """Positions: virtual tokens, prompt and output."""
        return self.virtual + len(self.prompt) + len(self.output)

    def content(self, start: int, stop: int) -> list[int]:
        """Its tokens at some positions; virtual ones are -1."""
        begin, end = max(start - self.virtual, 0), stop - self.virtual
        prompt = len(self.prompt)
        tokens = list(self.prompt[begin:end]) if begin < min(prompt, end) else []
        if end > prompt:
            tokens += [sampled.token for sampled in self.output[max(begin - prompt, 0) : end - prompt]]
        return [-1] * max(min(stop, self.virtual) - start, 0) + tokens

    @property
    def unscored(self) -> bool:
        """Whether its prompt has to be scored yet."""
        return self.scores is not None and not self.scores.complete

    @property
    def scorer(self) -> bool:
        """Whether it is the one among the sequences of its prompt that scores it."""
        return self.index % self.request.each == 0

    @property
    def released(self) -> bool:
        """Whether nobody waits for it any more: its text has ended, or its request is done."""
        return self.finish_reason is not None or self.request.future.done()


class Delta(NamedTuple):
    """What one step added to a text. `token`: None where the text ended without one."""

    sequence: Sequence
    text: str
    token: SampledToken | None
    finish_reason: FinishReason | None


@dataclass(slots=True, eq=False)
class Request:
    """What one question asks of the engine: sequences of one task, which may share batches with all others.

    `future` is done when all sequences are. Times are `time.monotonic()` seconds.
    """

    # who asks
    task: str
    sequences: list[Sequence]
    tenant: str = ""  # shares are by tenant, then by task
    digest: str = ""  # names the adapter's weights: what the cache knows of a prompt belongs to it
    each: int = 1  # sequences of one prompt, which stand side by side
    priority: int = 0
    listener: Callable[[Delta], None] | None = None  # called in the detokenizer's thread
    prompts: Many[tuple[str | None, Encoded]] = ()  # texts, where they were given as such, and their tokens
    future: Future[None] = field(default_factory=Future)
    queued: float = field(default_factory=time.monotonic)

    # the model's thread
    started: float = 0.0  # the first batch with one of its sequences
    compute: float = 0.0  # seconds in the model, over all its batches
    batch: BatchReport | None = None  # the last batch with one of its sequences

    # who finishes its sequences: the model's thread, or for those that generate the detokenizer's
    unfinished: int = 0
    # under the engine's lock: sequences that have no place in a pass yet
    waiting: int = 0

    def __post_init__(self) -> None:
        self.unfinished = self.waiting = len(self.sequences)
        for sequence in self.sequences:
            sequence.request = self

    @property
    def due(self) -> float:
        """Orders the queue: the time of asking, moved by a second for each step of priority."""
        return self.queued - self.priority

    @property
    def generates(self) -> bool:
        """Whether tokens follow its sequences."""
        return any(sequence.sampling is not None for sequence in self.sequences)

    @property
    def output_tokens(self) -> int:
        """Tokens of all its texts so far."""
        return sum(len(sequence.shown) for sequence in self.sequences)
