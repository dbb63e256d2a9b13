"""Requests to tasks, their responses, and the state of a running request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from manyhats.backbone import Text
from manyhats.core.call import CURRENT_CALL, Call
from manyhats.core.kinds.base import Answer, Kind, Parameters
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.core.kinds.registry import KINDS
from manyhats.core.sequence import Delta, Request, Reservation
from manyhats.core.sequence import Sequence as TokenSequence
from manyhats.errors import InvalidRequest, TooLarge
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.registry.names import BASE
from manyhats.registry.records import TaskSettings, Version
from manyhats.serving.chat import PLAIN, ChatOptions, Message
from manyhats.serving.inputs import InputWarning, Prepared, check_texts, filled_size
from manyhats.serving.merged import MergedVersion

LARGE = 1 << 62  # of a cost
_SEQUENCE_COST = 32  # of each sequence, besides its characters


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One item of a call: texts for one task. `task` may name an alias or a version (`spam@canary`, `spam@3`).

    Instead of `texts`: `prompts`, tokens as they are, without template, prompt or special tokens; or, for a task that
    generates, `chat`, a conversation for its template.
    `defaults`: parameters that neither the task nor the request sets. `generates`: whether the caller supports only
    generated texts. `kinds`: the kinds of task whose answers the caller understands, none for all; the bare backbone
    answers as the first of them that it has. `names`: the caller's names of parameters, for messages.
    `listener`: called for every token, in the detokenizer's thread. `affinity`: of an alias's split, the same value
    gets the same version; None leaves it to the call's header.
    """

    task: str
    texts: Sequence[Text] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    chat: Sequence[Message] | None = None
    chat_options: ChatOptions = PLAIN
    prompts: Sequence[Sequence[int]] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    generates: bool = False
    kinds: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    listener: Callable[[Delta], None] | None = None
    affinity: str | None = None


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """The answers to one request. Times in milliseconds."""

    id: str
    version: Version
    kind: str
    outputs: list[Answer]
    input_tokens: int
    output_tokens: int
    queue_ms: float
    load_ms: float
    compute_ms: float
    batch: dict[str, Any]
    warnings: list[InputWarning]
    size: int  # roughly its number of values, the cost of rendering
    sequences: Sequence[TokenSequence] = ()  # of a task that generates: the texts, token by token


@dataclass(slots=True)
class RequestState:
    """A running request."""

    request: InferenceRequest
    version: Version
    settings: TaskSettings
    parameters: Parameters
    received: float  # time.monotonic()
    adapter: BoundAdapter = BARE
    acquired: bool = False
    load_future: Future[BoundAdapter] | None = None  # for the adapter's slot
    load_ms: float = 0.0
    prepared: Prepared | None = None
    engine_request: Request | None = None
    merged: MergedVersion | None = None  # used instead of the version
    watched: bool = False  # whether an alias of its task is rolled out
    call: Call = field(default_factory=CURRENT_CALL.get)
    reservation: Reservation | None = None  # room in the engine's queue
    kind: str = field(init=False)  # the task's setting, else that of the version's files
    task_kind: Kind[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.kind = self.settings.kind or self.version.info.kind
        self.task_kind = KINDS[self.kind]

    @property
    def generate_parameters(self) -> GenerateParameters | None:
        """Its parameters, for a task that generates; None for one that a single pass answers."""
        if not self.task_kind.generates:
            return None
        assert isinstance(self.parameters, GenerateParameters)
        return self.parameters

    @property
    def truncates(self) -> bool:
        """Whether an input that is too long is truncated, which the answer says."""
        truncate = self.parameters.truncate
        return self.settings.overflow == "truncate" if truncate is None else truncate

    @property
    def preparing_cost(self) -> int:
        """Roughly how many characters are processed to tokenise it; `LARGE` where that waits or compiles."""
        request = self.request
        if request.chat is not None or self.parameters.compiles:  # a chat is rendered in another process
            return LARGE
        prefix = self.task_kind.prefix_length(self.parameters, self.settings)
        inputs = len(request.texts) + len(request.prompts or ())
        return (
            sum(prefix + filled_size(self.settings.template, text) for text in request.texts)
            + sum(map(len, request.prompts or ()))
            + inputs * self.parameters.sequences * _SEQUENCE_COST
        )

    @property
    def sequences(self) -> int:
        """How many sequences it will have."""
        request = self.request
        inputs = 1 if request.chat is not None else len(request.texts) + len(request.prompts or ())
        return inputs * self.parameters.sequences

    @property
    def effective_version(self) -> Version | None:
        """The version whose adapter is used; None for the bare backbone."""
        return self.merged or (None if self.version.task == BASE else self.version)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one call, and of the faults of an adapter: see `FaultyAdapters`."""

    max_inputs: int
    max_characters: int
    timeout: float  # seconds until an unanswered request fails
    max_faults: int = 0
    fault_window: float = 60.0
    verify_fraction: float = 0.0  # see `Verifier`

    def seconds_left(self, call: Call) -> float:
        """How long somebody waits for what a call asks."""
        return self.timeout if call.deadline is None else min(call.deadline - time.monotonic(), self.timeout)


def check_request(request: InferenceRequest, limits: Limits) -> None:
    """Raises InvalidRequest or TooLarge for no inputs, or too many."""
    if request.chat is None and request.prompts is None:
        check_texts(request.texts, max_inputs=limits.max_inputs, max_characters=limits.max_characters)
    elif request.prompts is not None:
        if not request.prompts:
            raise InvalidRequest("there is no prompt", param="prompt")
        if len(request.prompts) > limits.max_inputs:
            raise TooLarge(f"there are {len(request.prompts)} prompts; at most {limits.max_inputs}", param="prompt")


def check_kind(request: InferenceRequest, kind: Kind[Any], task: str) -> None:
    """Raises InvalidRequest where the caller does not understand the answers of a task of this kind."""
    if request.generates and not kind.generates:
        problem = "cannot generate text"
    elif request.kinds and kind.name not in request.kinds:
        problem = f"is not one of {', '.join(request.kinds)}" if len(request.kinds) > 1 else f"not '{request.kinds[0]}'"
    else:
        return
    raise InvalidRequest(
        f"the task `{task}` is of kind '{kind.name}' and {problem}; ask it with POST /v1/tasks/{task}/predict",
        param="model",
    )
