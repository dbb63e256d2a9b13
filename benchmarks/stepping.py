"""Texts under way in the steps of the model's thread, without the thread: what the benchmarks take of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from manyhats.backbone import Backbone
from manyhats.core.sampling_params import SampledToken, SamplingParams
from manyhats.core.sequence import Request
from manyhats.core.sequence import Sequence as Generated
from manyhats.engine.kv_cache import KVCache
from manyhats.engine.runner import Runner
from manyhats.engine.scheduler import Scheduler
from manyhats.methods.bound_adapter import BoundAdapter


class Generation:
    """Running generations. `tokens`: maximum tokens of one step; `streams`: maximum generations at once."""

    def __init__(self, backbone: Backbone, *, cache_bytes: int, tokens: int, streams: int) -> None:
        cache = KVCache(backbone, cache_bytes)
        self._scheduler = Scheduler(cache, max_num_batched_tokens=tokens, max_num_seqs=streams)
        self.runner = Runner(backbone, cache)

    def add(self, task: str, adapter: BoundAdapter, prompt: Sequence[int], new: int, **sampling: Any) -> Generated:
        """A text of `new` tokens; `sampling`: as in SamplingParams."""
        sequence = Generated(adapter, prompt, SamplingParams(new, **sampling))
        self._scheduler.add(Request(task, [sequence], digest=task))
        return sequence

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to do."""
        return self._scheduler.idle

    @property
    def running(self) -> int:
        """Texts that have their place."""
        return len(self._scheduler.running)

    @property
    def positions(self) -> int:
        """Of these texts together: what a step attends to."""
        return sum(sequence.length for sequence in self._scheduler.running)

    @torch.inference_mode()
    def step(self) -> list[Generated]:
        """Schedule, execute, update; the texts that have a token more. Raises what failed one."""
        batch = self._scheduler.schedule()
        if batch is None:
            return []
        outputs = self._scheduler.update(batch, self.runner.execute(batch))
        for output in outputs:
            if output.error is not None:
                raise output.error
        return [output.sequence for output in outputs if output.token is not None]


def tokens_of(sequence: Generated) -> list[SampledToken]:
    """The tokens of a text so far."""
    return sequence.output
