"""Passes whose cost is counted: of an encoder, and decode steps of a decoder. What names the engine stands here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from manyhats.backbone import Backbone, Text
from manyhats.backbone.cache import KeyValueCache
from manyhats.core.adapter import Adapter
from manyhats.core.batch import ScheduledBatch, ScheduledSequence
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.sequence import PoolingParams, Request
from manyhats.core.sequence import Sequence as Generated
from manyhats.engine.kv_cache import KVCache
from manyhats.engine.runner import Runner
from manyhats.engine.scheduler import Scheduler
from manyhats.methods.bound_adapter import BARE, BoundAdapter

from tests import every, tiny

ENCODER_SEQUENCES = 64
STREAMS = 32
MIXTURE = ("lora", "mask", "ia3", "bottleneck", "prefix", "sparse", "biases", "norms")
_PROMPT = 5  # tokens, the same of every stream, so that all are read in one step
_ROWS = 64  # of the cache, for each stream


def adapters_of(backbone: Backbone) -> dict[str, Adapter | None]:
    """One of each method and composition, with heads and without; None is the bare backbone."""
    made: dict[str, Adapter | None] = {"bare": None, **every.adapters(backbone)}
    own = every.parts(backbone)
    plain = tiny.adapter(backbone, "lora", 1)
    changed = own["parameters"]
    for name, sites in (("biases", backbone.linear), ("norms", backbone.norm)):
        tensors: Mapping[str, object] = {site: leaves for site, leaves in changed.tensors.items() if site in sites}
        made[name] = replace(plain, components=(replace(changed, tensors=tensors),))
    if not backbone.family.causal:
        made["head, of sequences"] = tiny.adapter(backbone, "lora", 1, kind="classify")
        made["head, of tokens"] = tiny.adapter(backbone, "lora", 1, kind="tokens")
    return made


def min_tasks_of(name: str) -> int:
    """The fewest tasks with which a batch holds all of a name's methods."""
    return len(MIXTURE) if name == "mixture" else 1


def tasks_of(backbone: Backbone, made: Mapping[str, Adapter | None], name: str, count: int) -> list[BoundAdapter]:
    """So many tasks of one of the adapters `made`, or of the mixture, each in a slot of its own."""
    names = MIXTURE if name == "mixture" else (name,)
    chosen = [made[names[i % len(names)]] for i in range(count)]
    return [BARE if one is None else one.bind(backbone) for one in chosen]


def encoder_pass(
    backbone: Backbone, adapters: Sequence[BoundAdapter], sequences: int = ENCODER_SEQUENCES
) -> Callable[[], None]:
    """A pass over sequences of 2 to 14 words, its answers read; the i-th belongs to adapter i modulo their number."""
    runner = Runner(backbone, None)
    encoded = backbone.tokenizer.encode(
        [Text(text) for text in tiny.texts([2 + i * 5 % 13 for i in range(sequences)])], backbone.max_tokens
    )
    chosen: list[ScheduledSequence] = []
    for i, one in enumerate(encoded):
        sequence = Generated(adapters[i % len(adapters)], one.ids, PoolingParams(), one.type_ids)
        Request(f"task {i % len(adapters)}", [sequence])
        chosen.append(ScheduledSequence(sequence, sequence.length, cached=False))

    def run() -> None:
        for output in runner.execute(ScheduledBatch(chosen)):
            if output.error is not None:
                raise output.error

    return run


class Decoding:
    """Streams under way. The i-th belongs to adapter i modulo their number."""

    def __init__(
        self, backbone: Backbone, adapters: Sequence[BoundAdapter], streams: int = STREAMS, *, sampled: bool = False
    ) -> None:
        # No larger than needed: how many programs share a sequence depends on the cache, and they are interpreted.
        rows = streams * _ROWS
        cache = KVCache(backbone, rows * KeyValueCache.row_bytes(backbone.layers, backbone.kv_shape, backbone.dtype))
        self._scheduler = Scheduler(cache, max_num_batched_tokens=4096, max_num_seqs=max(streams, 64))
        self._runner = Runner(backbone, cache)
        pick = random.Random(0)
        for i in range(streams):
            prompt = [5 + pick.randrange(tiny.WORDS) for _ in range(_PROMPT)]
            params = SamplingParams(40, temperature=0.8, top_p=0.9, top_k=20, seed=i) if sampled else SamplingParams(40)
            name = f"task {i % len(adapters)}"
            self._scheduler.add(Request(name, [Generated(adapters[i % len(adapters)], prompt, params)], digest=name))
        self.step()
        assert len(self._scheduler.running) == streams, "the streams are not all under way"

    @torch.inference_mode()
    def step(self) -> None:
        """One token of every stream. Raises what failed one."""
        batch = self._scheduler.schedule()
        assert batch is not None
        for output in self._scheduler.update(batch, self._runner.execute(batch)):
            if output.error is not None:
                raise output.error
