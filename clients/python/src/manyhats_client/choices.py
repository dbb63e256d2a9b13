"""Values that fields may have, and the parameters of questions, as types that an editor and a type checker know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import httpx

Kind = Literal["classify", "tokens", "regress", "rerank", "span", "embed", "generate", "fill"]
PoolingMode = Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"]
"""How a vector is made of the tokens' hidden states."""
Pooling = Literal["none"] | PoolingMode | Sequence[PoolingMode]
"""One mode, or several whose vectors are concatenated; `none`: one vector for every token."""
Aggregation = Literal["none", "simple", "first", "average", "max", "word"]
"""How tokens become entities."""
FinishReason = Literal["stop", "length"]
Residency = Literal["disk", "memory", "slot"]
Overflow = Literal["error", "truncate"]
"""What becomes of an input that is longer than the task takes."""
Role = Literal["system", "user", "assistant", "tool", "developer"]
Side = Literal["left", "right"]

Seconds = float | httpx.Timeout | None


class CallOptions(TypedDict, total=False):
    """What every call takes beside its own arguments.

    `timeout`: seconds to connect, and to wait for the next chunk of an answer; None waits for ever. `retries`: how
    often a refusal or a connection that was never made is tried again. `headers`: further ones, such as
    `X-Request-Id`, which is a new one otherwise.
    """

    timeout: Seconds
    retries: int
    headers: Mapping[str, str]


class GenerationParameters(TypedDict, total=False):
    """How a text is generated; docs/generation.md says what each does."""

    max_new_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[str, float]
    allowed_token_ids: Sequence[int]
    bad_words: Sequence[str]
    seed: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    include_stop: bool
    ignore_eos: bool
    skip_special_tokens: bool
    n: int
    logprobs: int
    prompt_logprobs: int
    truncate: bool
    truncate_prompt_tokens: int
    truncation_side: Side
    response_format: Mapping[str, Any]
    regex: str
    choice: Sequence[str]
    grammar: str


class Parameters(GenerationParameters, total=False):
    """The parameters of all kinds; a task takes those of its own."""

    logits: bool
    multi_label: bool
    aggregation: Aggregation
    raw_scores: bool
    max_answer_tokens: int
    pooling: Pooling
    normalize: bool
    prompt: str
    prompt_name: str


class GenerateOptions(GenerationParameters, CallOptions, total=False):
    """What `generate` and `generate_stream` take."""


class PredictOptions(Parameters, CallOptions, total=False):
    """What the calls that ask a task of any kind take."""


class EmbedOptions(CallOptions, total=False):
    """What `embed` takes. `dimensions`: the first numbers of each vector, made of length one again."""

    dimensions: int
    pooling: PoolingMode | Sequence[PoolingMode]
    normalize: bool
    prompt: str
    prompt_name: str
    truncate: bool


class ChatOptions(CallOptions, total=False):
    """What `chat` and `chat_stream` take: OpenAI's fields, and what is known beside them."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[str, float]
    seed: int
    stop: str | Sequence[str]
    ignore_eos: bool
    n: int
    logprobs: bool
    top_logprobs: int
    response_format: Mapping[str, Any]
    guided_regex: str
    guided_choice: Sequence[str]
    guided_grammar: str
    chat_template_kwargs: Mapping[str, Any]
    truncate_prompt_tokens: int


class Message(TypedDict):
    """One message of a chat."""

    role: Role | str
    content: NotRequired[str | Sequence[Mapping[str, Any]]]
    name: NotRequired[str]


class Shadow(TypedDict):
    """A version that is asked a `fraction` of the requests after their answers. `tolerance`: how far two numbers, or
    two vectors' cosine from 1, may differ and still agree."""

    version: int
    fraction: float
    tolerance: NotRequired[float]


class Canary(TypedDict):
    """When a version of a split is withdrawn: a bound is passed by at least `min_requests` of the last
    `window_seconds`."""

    version: int
    max_error_rate: NotRequired[float]
    max_latency_ratio: NotRequired[float]
    max_p95_ms: NotRequired[float]
    min_requests: NotRequired[int]
    window_seconds: NotRequired[float]


class TaskSettings(TypedDict, total=False):
    """What is set of a task beside its weights; None goes back to the adapter's own."""

    kind: Kind | str | None
    labels: Sequence[str] | None
    template: str | None
    max_tokens: int | None
    overflow: Overflow | None
    pooling: Pooling | None
    normalize: bool | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    include_prompt: bool | None
    lower_case: bool | None
    system_prompt: str | None
    chat_template: str | None
    stop_token_ids: Sequence[int] | None
    defaults: Mapping[str, Any] | None
    priority: int | None
    pinned: bool | None


class ConfigureOptions(TaskSettings, CallOptions, total=False):
    """What `configure` takes."""


_CALL = frozenset(CallOptions.__annotations__)


def divide(given: Mapping[str, Any]) -> tuple[CallOptions, dict[str, Any]]:
    """The options of the call among keyword arguments, and the others."""
    options: Any = {name: value for name, value in given.items() if name in _CALL}
    return options, {name: value for name, value in given.items() if name not in _CALL}


def only_options(given: Mapping[str, Any]) -> CallOptions:
    """The options of a call that takes nothing else. Raises TypeError for another name."""
    options, others = divide(given)
    if others:
        raise TypeError(f"{', '.join(others)}: there are no such options; there are {', '.join(sorted(_CALL))}")
    return options
