"""Engines without a thread, and short ways to ask them something."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any

from manyhats.backbone import Backbone
from manyhats.core.batch import SequenceOutput
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.sequence import PoolingParams, Request, Sequence
from manyhats.engine.config import EngineConfig
from manyhats.engine.detokenizer import Detokenizer, IncrementalDetokenizer
from manyhats.engine.engine import Engine
from manyhats.engine.prompt_logprobs import PromptLogprobs
from manyhats.methods.bound_adapter import BoundAdapter

from tests import tiny
from tests.waiting import PATIENCE


class AtOnce(Detokenizer):
    """One that has no thread: what is put is shown when `put` comes back."""

    def start(self) -> None: ...

    def put(self, outputs: list[SequenceOutput]) -> None:
        for output in outputs:
            self._handle(output)


def engine(
    backbone: Backbone, *, tokens: int = 512, seqs: int = 16, cache: int = 1 << 22, limit: int = 1 << 20
) -> Engine:
    """Not started: `run` steps it. `cache`: bytes; `limit`: how many sequences may wait."""
    one = Engine(backbone, EngineConfig(tokens, seqs, cache, limit, limit))
    one.detokenizer = AtOnce()
    return one


def generation(
    backbone: Backbone,
    name: str,
    adapter: BoundAdapter,
    prompt: Many[int],
    *,
    new: int = 6,
    n: int = 1,
    top: int | None = None,
    **params: Any,
) -> Request:
    """Texts after a prompt. `name`: of the task and of its weights; `top`: scores the prompt, with so many tokens."""
    scores = None if top is None else PromptLogprobs(prompt, top)
    sequences = [
        Sequence(
            adapter,
            prompt,
            SamplingParams(max_new_tokens=new, **params),
            index=i,
            decoder=IncrementalDetokenizer(backbone.tokenizer),
            prompt_logprobs=scores,
        )
        for i in range(n)
    ]
    return Request(name, sequences, digest=name, samples_per_prompt=n)


def one_pass(
    backbone: Backbone, adapter: BoundAdapter, texts: Many[str], task: str = "t", pooling: str = "mean", **options: Any
) -> Request:
    """Texts that one pass answers."""
    rows = [tiny.row(backbone, adapter, text, pooling) for text in texts]
    params = PoolingParams(pooling)
    return Request(task, [Sequence(adapter, r.ids, params, r.type_ids, i) for i, r in enumerate(rows)], **options)


def run(one: Engine, requests: Many[Request], steps: int = 5000) -> None:
    """Until all are done. Raises what a request raises."""
    step_all(one, requests, steps)
    for request in requests:
        request.future.result(PATIENCE)


def step_all(one: Engine, requests: Many[Request], steps: int = 5000) -> None:
    """Until nothing is left to run."""
    one.submit(requests)
    for _ in range(steps):
        if not one.step():
            break
    assert one.scheduler.idle


def tokens(request: Request) -> list[int]:
    """Of its only text."""
    (sequence,) = request.sequences
    return [sampled.token for sampled in sequence.emitted_tokens]
