"""A share of the answers is computed once more, alone, and compared.

What shares a batch must not change an answer. So after some answers were given, their inputs run again with the same
adapter, one sequence a batch, without what the cache holds of earlier batches, while little else waits. An adapter
whose answer differs runs alone from then on: which of its neighbours it does not get along with is not known where more
than two shared the pass, and alone is how the answer is right by definition.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Many
from dataclasses import replace
from random import Random
from typing import NamedTuple

import numpy as np
import torch

from manyhats.backbone import Backbone
from manyhats.backbone.precision import rounds_products
from manyhats.core.sequence import Output, Request, Sequence
from manyhats.engine.detokenizer import IncrementalDetokenizer
from manyhats.engine.engine import Engine
from manyhats.errors import ManyhatsError
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.registry.adapter_cache import AdapterCache
from manyhats.registry.records import Version
from manyhats.serving.inference import RequestState

logger = logging.getLogger(__name__)

# The norm of the difference that is allowed, as a part of the norm of the output; and of a token's log probability.
# Batches of other shapes sum in another order, which costs a few of the type's last bits at each layer: 1e-6 to 1e-5 in
# float32 (24 bits), up to 0.03 in bfloat16 (8 bits), as at the self-check, whose tolerances these are. What comes
# of a wrong sequence or a wrong adapter differs by about 1.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
_TF32 = torch.float16  # the type with as many bits as TF32
_NEAR_TIE = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.5}  # of logits, which are about 10
_TOP = 20  # tokens that a sampled token must be among, where the same random number chose another
_PRIORITY = -(10**6)  # behind all others of its lane
_MAX_PENDING = 64  # requests that wait to be compared
_MAX_INPUTS = 16  # of one answer that are compared, chosen at random
_MAX_TOKENS = 128  # of a text that are compared
_MAX_DIFFERING = 65536


class Difference(NamedTuple):
    """Of the answer to one input. `size`: of an output, as a part of it; of a text, the first token that differs."""

    input: int
    size: float


class Verifier:
    """`fraction` of the answers are compared. All methods are called on the event loop, but for reading counts.

    `seed`: chooses the same answers again. An adapter stays in its slot until its answer is compared.
    """

    def __init__(
        self,
        fraction: float,
        backbone: Backbone,
        engine: Engine,
        adapter_cache: AdapterCache,
        seed: int | None = None,
    ) -> None:
        self.fraction = fraction
        self._backbone = backbone
        self._engine = engine
        self._adapter_cache = adapter_cache
        self._random = Random(seed)
        rounded = backbone.dtype == torch.float32 and rounds_products(backbone.dtype, backbone.device)
        dtype = _TF32 if rounded else backbone.dtype
        self._tolerance, self._near_tie = _TOLERANCE[dtype], _NEAR_TIE[dtype]
        self._running: set[asyncio.Task[None]] = set()
        self.reasons: OrderedDict[str, str] = OrderedDict()  # of the adapters that run alone, by sha256
        self.compared = 0  # sequences
        self.skipped = 0  # answers that were chosen, and could not be compared
        self.unclear = 0  # sampled texts that went another way where both are likely
        self.differences = 0  # sequences

    def offer(self, one: RequestState) -> None:
        """An answer was made: perhaps it is compared."""
        if self._random.random() >= self.fraction:
            return
        request = one.engine_request
        version = one.effective_version
        if request is None or request.lane != "shared" or (version is not None and version.sha256 in self.reasons):
            return  # it ran alone
        adapter: BoundAdapter | None = None
        if len(self._running) < _MAX_PENDING:
            # Not the request's own: that may have been given back, and have lost its slot since.
            adapter = one.adapter if version is None else self._adapter_cache.acquire_resident(version)
        if adapter is None:
            self.skipped += 1
            return
        chosen = [s for s in request.sequences if s.constraint is None and (s.sampling is None or s.emitted_tokens)]
        if len(chosen) > _MAX_INPUTS:
            chosen = self._random.sample(chosen, _MAX_INPUTS)
        task = asyncio.get_running_loop().create_task(self._verify(one, request, chosen, adapter))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def stop(self) -> None:
        """Compares nothing more: nobody waits for it."""
        self.fraction = 0.0
        for task in self._running:
            task.cancel()

    @property
    def pending(self) -> int:
        """How many answers wait to be compared."""
        return len(self._running)

    def of(self, version: Version) -> str | None:
        """Why a version runs alone; None where it does not."""
        return self.reasons.get(version.sha256)

    def lift(self, versions: Iterable[Version]) -> None:
        """Has versions share batches again."""
        for version in versions:
            self.reasons.pop(version.sha256, None)
        self._engine.lanes.isolated = frozenset(self.reasons)

    # ---- one answer

    async def _verify(
        self, one: RequestState, request: Request, sequences: Many[Sequence], adapter: BoundAdapter
    ) -> None:
        try:
            found: list[Difference] = []
            for sequence in sequences:  # the next is submitted when the last is done: they take one place in the queue
                again = await self._again(request, sequence, adapter)
                self.compared += 1
                if (difference := self._compare(sequence, again)) is not None:
                    found.append(difference)
            if found:
                self._differs(one, request, found)
        except ManyhatsError as error:  # the server ends, its queue is full, or the adapter failed
            self.skipped += 1
            logger.info("an answer of %s could not be compared: %s", one.version.ref, error)
        except Exception:
            self.skipped += 1
            logger.exception("an answer of %s could not be compared", one.version.ref)
        finally:
            if (version := one.effective_version) is not None:
                self._adapter_cache.release(version)

    async def _again(self, request: Request, sequence: Sequence, adapter: BoundAdapter) -> Sequence:
        """The same sequence, computed alone."""
        params = sequence.params
        decoder = None
        if sequence.sampling is not None:
            count = min(len(_tokens(sequence)), _MAX_TOKENS)
            top = min(_TOP, int(self._backbone.config.vocab_size))
            seed = sequence.sampling.seed if sequence.random is None else _seed(sequence.random)
            params = replace(sequence.sampling, max_new_tokens=count, logprobs=top, seed=seed)
            decoder = IncrementalDetokenizer(self._backbone.tokenizer, skip_special=False)
        copy = Sequence(adapter, sequence.prompt, params, sequence.type_ids, decoder=decoder)
        own = Request(
            request.task,
            [copy],
            tenant=request.tenant,
            digest=request.digest,
            priority=_PRIORITY,
            lane="verification",
        )
        self._engine.submit([own])
        await asyncio.wrap_future(own.future)
        return copy

    def _compare(self, sequence: Sequence, again: Sequence) -> Difference | None:
        if sequence.sampling is None:
            assert sequence.pooled is not None
            assert again.pooled is not None
            size = relative_difference(sequence.pooled, again.pooled)
            return Difference(sequence.index, size) if not size <= self._tolerance else None
        place = self._first_difference(sequence, again)
        return None if place is None else Difference(sequence.index, place)

    def _first_difference(self, sequence: Sequence, again: Sequence) -> int | None:
        """The first token that the sequence should not have; None where it could have all of them.

        Where two tokens are nearly as likely, rounding may choose either, and what follows is another text: a greedy
        token must be as likely as the one chosen alone, but for a little. The random number of a sampled one may lie
        between two tokens, and penalties change what is likely: such a token must be one of the likeliest.
        """
        params = sequence.sampling
        assert params is not None
        by_chance = params.temperature > 0 or params.looks_back or params.logit_bias  # or by more than the logits
        computed = [*again.output, *([again.ended_by] if again.ended_by is not None else [])]
        for i, (token, own) in enumerate(zip(_tokens(sequence), computed, strict=False)):
            if token == own.token:
                continue
            likely = dict(own.top)
            if token in likely and by_chance:
                self.unclear += 1
                return None
            if token in likely and own.logprob is not None and own.logprob - likely[token] <= self._near_tie:
                return None
            return i
        return None

    def _differs(self, one: RequestState, request: Request, found: Many[Difference]) -> None:
        self.differences += len(found)
        version = one.effective_version
        batch = request.batch
        shared = "" if batch is None else f"; its batch {batch.id} had {batch.sequences} sequences of {batch.methods}"
        worst = max(found, key=lambda difference: difference.size)
        logger.error(
            "an answer of %s (request %s) differs from the one computed alone: %d of its inputs, input %d by %.3g%s",
            one.version.ref,
            one.call.id,
            len(found),
            worst.input,
            worst.size,
            shared,
        )
        if version is None:  # the bare backbone: its neighbours are what is at fault, if anything
            return
        self.reasons[version.sha256] = (
            f"an answer differed by {worst.size:.3g} from the one computed alone: it shares no batch any more"
        )
        while len(self.reasons) > _MAX_DIFFERING:
            self.reasons.popitem(last=False)
        self._engine.lanes.isolated = frozenset(self.reasons)


def relative_difference(given: Output, expected: Output) -> float:
    """The norm of the difference of two outputs, as a part of the norm of the second; infinite for other shapes."""
    if given.shape != expected.shape:
        return float("inf")
    norm = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(given - expected))
    return difference / norm if norm else difference


def _seed(random: np.random.Generator) -> int:
    """What its numbers were made of, also where no seed was given."""
    entropy: int = random.bit_generator.seed_seq.entropy  # type: ignore[attr-defined]
    return entropy


def _tokens(sequence: Sequence) -> list[int]:
    """The tokens of its text, and the one that ended it."""
    tokens = [sampled.token for sampled in sequence.emitted_tokens]
    if sequence.ended_by is not None and len(tokens) == len(sequence.output):
        tokens.append(sequence.ended_by.token)
    return tokens
