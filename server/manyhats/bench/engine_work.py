"""Work for the engine, run in the caller's thread: passes over whole inputs, and texts that are generated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manyhats.backbone import Backbone, Encoded
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.sequence import PoolingParams, Request
from manyhats.core.sequence import Sequence as TokenSequence
from manyhats.engine.config import EngineConfig
from manyhats.engine.detokenizer import IncrementalDetokenizer
from manyhats.engine.engine import Engine
from manyhats.errors import EngineFailure
from manyhats.methods.bound_adapter import BoundAdapter

_TOKENS = 1 << 20  # of one pass: all that is measured runs in one


@dataclass(frozen=True, slots=True)
class BenchTask:
    """A task's name and its adapter, in a slot."""

    name: str
    adapter: BoundAdapter


def new_engine(backbone: Backbone, *, streams: int = 64, tokens: int = _TOKENS) -> Engine:
    """An engine whose thread is not started: `Engine.step` runs in the caller's. `tokens`: maximum tokens of a pass."""
    config = EngineConfig(max_num_batched_tokens=tokens, max_num_seqs=streams)
    return Engine(backbone, config)


def one_pass(engine: Engine, inputs: Sequence[Encoded], tasks: Sequence[BenchTask]) -> Callable[[], None]:
    """A call that answers every input in one batch; input i belongs to task i, modulo their number.

    The call raises EngineFailure where one of them fails.
    """
    cycle = [task for task, _ in zip(itertools.cycle(tasks), inputs, strict=False)]

    def run() -> None:
        requests = [
            Request(task.name, [TokenSequence(task.adapter, one.ids, PoolingParams(), one.type_ids)], digest=task.name)
            for task, one in zip(cycle, inputs, strict=True)
        ]
        _finish(engine, requests)

    return run


def generation(
    engine: Engine, prompts: Sequence[Sequence[int]], tasks: Sequence[BenchTask], tokens: int
) -> Callable[[], None]:
    """A call that generates so many tokens after each prompt; prompt i belongs to task i, modulo their number."""
    params = SamplingParams(max_new_tokens=tokens)

    def run() -> None:
        requests = []
        for task, prompt in zip(itertools.cycle(tasks), prompts, strict=False):
            decoder = IncrementalDetokenizer(engine.backbone.tokenizer)
            sequence = TokenSequence(task.adapter, prompt, params, decoder=decoder)
            requests.append(Request(task.name, [sequence], digest=task.name))
        _finish(engine, requests)

    return run


def _finish(engine: Engine, requests: Sequence[Request]) -> None:
    engine.submit(requests)
    while engine.step():
        while engine.detokenizer.step():
            pass
    for request in requests:
        error = request.future.exception(timeout=0)
        if error is not None:
            raise EngineFailure(f"a measured request of the task {request.task} failed: {error!r}")
