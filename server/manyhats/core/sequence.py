"""Requests and their sequences, from arrival to completion.

All sequences are of one class. A sequence with `PoolingParams` is answered by one pass over all its tokens (a vector, a
head's logits, the logits at mask tokens); a sequence with `SamplingParams` generates tokens.
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
Lane = Literal["shared", "alone", "verification"]  # see `engine.lanes`
Output = NDArray[np.float32]
_NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """What one pass over all tokens returns. `pooling` (for adapters without a head): how the last hidden states become
    one vector (see `backbone.sentence`), or `none`; `skip`: how many tokens at the beginning are left out of pooling.
    `mask_positions`: return the language-model head's logits at these tokens instead."""

    pooling: Pooling = "mean"
    skip: int = 0
    mask_positions: tuple[int, ...] = ()


@dataclass(slots=True)
class Reservation:
    """Room in the queue for a request that is not tokenised yet. `count`: its sequences; 0: it was given back.
    `tokens`: of all of them, as its characters let expect."""

    tenant: str
    task: str
    count: int
    tokens: float = 0.0


class TokenConstraint(Protocol):
    """Which tokens a structured output allows next; see `engine.structured_output`."""

    def bitmask(self) -> Tensor:
        """The tokens that are allowed next, one bit each, the lowest bit first: (vocabulary / 32 rounded up,) int32, on
        the host. Valid until the next call. Raises as `accept`."""
        ...

    def accept(self, token: int) -> bool:
        """Advances by a token. Returns whether the output is complete. Raises InvalidRequest where none can match."""
        ...


class TextDecoder(Protocol):
    """Decodes tokens to text incrementally; see `engine.detokenizer`."""

    skip_special: bool
    stop: str | None

    @property
    def text(self) -> str: ...

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class PromptLogprobsSink(Protocol):
    """Collects the log probabilities of a prompt's own tokens; see `engine.prompt_logprobs`."""

    @property
    def complete(self) -> bool: ...

    def wanted(self, start: int, stop: int) -> range: ...

    def put(self, first: int, logits: Tensor) -> None: ...


@dataclass(slots=True, eq=False)
class Sequence:
    """One input of a request. Each field is written by one thread only, the one that is named above it."""

    # set by the caller
    adapter: BoundAdapter
    prompt: Many[int]  # its tokens
    params: PoolingParams | SamplingParams
    type_ids: Many[int] = ()  # of each token; empty: all 0
    index: int = 0  # among its request's sequences
    constraint: TokenConstraint | None = None
    decoder: TextDecoder | None = None  # of sequences that generate; used by the detokenizer's thread
    prompt_logprobs: PromptLogprobsSink | None = None  # shared by all sequences of one prompt

    # set by the request
    request: Request = field(init=False)

    # the model's thread: the scheduler and the cache
    output: list[SampledToken] = field(default_factory=list)  # sampled tokens, the last of them not yet computed
    computed: int = 0  # positions whose keys and values are in the cache; virtual tokens count
    prefix_blocks: list[int] = field(default_factory=list)  # of the adapter's prefix
    prefix_rows: int = 0  # cache rows of the adapter's prefix
    blocks: list[int] = field(default_factory=list)  # of its own positions: the block table
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks
    cached_blocks: int = 0  # how many of its blocks other sequences can find by their hash
    cached_tokens: int = 0  # how many of its prompt's tokens were found in the cache when it was first scheduled
    # the cache's row of each position: the adapter's prefix first, then its own
    slot_mapping: NDArray[np.int64] = field(default_factory=lambda: _NO_ROWS)
    # the model's thread: the sampler. None where sampling is greedy
    random: np.random.Generator | None = None
    history: TokenHistory | None = None  # None where no parameter depends on earlier tokens
    # the model's thread: the runner
    pooled: Output | None = None
    # the model's thread, read by others: why it generates no more (an end token, the length, a complete structure)
    finished: FinishReason | None = None
    ended_by: SampledToken | None = None  # the end token, where one was sampled that is not part of the output

    # the detokenizer's thread
    emitted_tokens: list[SampledToken] = field(default_factory=list)  # tokens of the text that is returned
    token_times: list[float] = field(default_factory=list)  # when each of them was emitted, by `time.monotonic()`
    finish_reason: FinishReason | None = None  # of the text; a stop string may end it before the scheduler does

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
        """The index of its prompt among the request's prompts."""
        return self.index // self.request.samples_per_prompt

    @property
    def virtual(self) -> int:
        """The number of virtual tokens before its own."""
        return self.adapter.virtual_tokens

    @property
    def length(self) -> int:
        """The number of positions: virtual tokens, prompt and output."""
        return self.virtual + len(self.prompt) + len(self.output)

    def content(self, start: int, stop: int) -> list[int]:
        """The token ids at the positions from `start` to `stop`; virtual tokens are -1."""
        begin, end = max(start - self.virtual, 0), stop - self.virtual
        prompt = len(self.prompt)
        tokens = list(self.prompt[begin:end]) if begin < min(prompt, end) else []
        if end > prompt:
            tokens += [sampled.token for sampled in self.output[max(begin - prompt, 0) : end - prompt]]
        return [-1] * max(min(stop, self.virtual) - start, 0) + tokens

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether log probabilities of its prompt are wanted and not complete."""
        return self.prompt_logprobs is not None and not self.prompt_logprobs.complete

    @property
    def computes_prompt_logprobs(self) -> bool:
        """Whether it is the first of its prompt's sequences, which computes the prompt's log probabilities for all."""
        return self.index % self.request.samples_per_prompt == 0

    @property
    def released(self) -> bool:
        """Whether its output is no longer needed: its text has ended, or its request is done."""
        return self.finish_reason is not None or self.request.future.done()


class Delta(NamedTuple):
    """What one step added to a text. `token`: None where the text ended without a further token."""

    sequence: Sequence
    text: str
    token: SampledToken | None
    finish_reason: FinishReason | None


@dataclass(slots=True, eq=False)
class Request:
    """Sequences of one task that are submitted together. They may share batches with those of any other request.

    `future` is done when all sequences are. Times are in seconds, by `time.monotonic()`.
    """

    # set by the caller
    task: str
    sequences: list[Sequence]
    tenant: str = ""  # the token budget is shared by tenant, then by task
    weight: float = 1.0  # the tenant's part beside others'
    deadline: float | None = None  # after which its sequences are not begun; a time, as below
    reservation: Reservation | None = None  # that was kept for it
    digest: str = ""  # identifies the adapter's weights: cached blocks belong to them
    samples_per_prompt: int = 1  # consecutive sequences with the same prompt
    priority: int = 0
    lane: Lane = "shared"  # whether it shares batches with others; the engine may change it
    listener: Callable[[Delta], None] | None = None  # called in the detokenizer's thread
    prompts: Many[tuple[str | None, Encoded]] = ()  # the text, where the prompt is not given as tokens, and its tokens
    future: Future[None] = field(default_factory=Future)
    arrival_time: float = field(default_factory=time.monotonic)

    # the model's thread
    started: float = 0.0  # when the first batch with one of its sequences was scheduled
    compute: float = 0.0  # seconds in the model, summed over its batches
    batch: BatchReport | None = None  # the last batch with one of its sequences

    # the model's thread, or the detokenizer's thread where it generates: sequences that are not finished
    unfinished: int = 0
    # any thread, under the engine's lock: sequences that were not scheduled yet; tokens of each, as was expected
    waiting: int = 0
    expected_tokens: float = 0.0

    def __post_init__(self) -> None:
        self.unfinished = self.waiting = len(self.sequences)
        for sequence in self.sequences:
            sequence.request = self

    @property
    def scheduling_key(self) -> float:
        """Orders the queue, the lowest first: the arrival time, one second earlier for each unit of priority."""
        return self.arrival_time - self.priority

    @property
    def generates(self) -> bool:
        """Whether its sequences generate tokens."""
        return any(sequence.sampling is not None for sequence in self.sequences)

    @property
    def output_tokens(self) -> int:
        """The number of tokens of all its texts so far."""
        return sum(len(sequence.emitted_tokens) for sequence in self.sequences)
