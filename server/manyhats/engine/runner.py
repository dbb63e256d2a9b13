"""Runs a scheduled batch: packs it, takes it through the backbone, and reads out what each sequence asks for.

A fault stays with the sequence that brought it: a pass that fails is halved, in batch order, until the culprit is
alone, and values that are not finite fail their own sequence.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhats.backbone import Actors, Backbone, PackedBatch, SequenceChunk, StagingBuffer, pack_chunks
from manyhats.core.batch import ScheduledBatch, ScheduledSequence, SequenceOutput
from manyhats.core.report import BatchReport
from manyhats.core.sequence import Output, PoolingParams, PromptScoring, Sequence
from manyhats.engine.forward import passes, whole_chunk
from manyhats.engine.kv_cache import KVCache
from manyhats.engine.prompt_scores import score_pass
from manyhats.engine.read_out import ReadOut, asked_segments, vocabulary_actors
from manyhats.engine.row import Row
from manyhats.engine.sampler import SamplingInput, sample
from manyhats.errors import EngineFailure
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.plan import Plan, in_batch_order, segments_of

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """A sequence's part in a pass, and its adapter as it acts there."""

    adapter: BoundAdapter
    sequence: Sequence
    tokens: int
    cached: bool

    @property
    def ends(self) -> bool:
        """Whether a token is to follow what the pass holds of it."""
        params = self.sequence.sampling
        if params is None or not params.max_new_tokens:
            return False
        return not self.cached or self.sequence.computed + self.tokens == self.sequence.length


class _Planned(NamedTuple):
    """Who acted where in the last pass: the same again where the same adapters have as many tokens each, as in most
    steps. `ending`: which rows are asked for a token."""

    adapters: list[BoundAdapter]
    lengths: list[int]
    ending: list[bool]
    plan: Plan
    actors: Actors
    vocabulary: Actors | None


class Runner:
    """Executes batches, one at a time. The model's thread alone uses it. Raises where the device is lost.

    `cache`: for backbones that continue texts. `on_batch` is told of every pass.
    """

    def __init__(self, backbone: Backbone, cache: KVCache | None) -> None:
        self.backbone = backbone
        self.cache = cache
        self.on_batch: Callable[[BatchReport], None] = lambda report: None
        self._ids = itertools.count(1)
        self._planned: _Planned | None = None

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch) -> list[SequenceOutput]:
        """What the pass makes of each of its sequences.

        Those that one pass answers have their `pooled` then; of the others some have a token.
        """
        entries = in_batch_order(map(_entry, batch.sequences), lambda entry: entry.adapter)
        done: list[tuple[Many[_Entry], float]] = []
        outputs = self._halving(entries, done)
        for passed, seconds in done:
            self._account(passed, seconds)
        return outputs

    def forget(self) -> None:
        """Holds no adapter any longer: those without a user may have to leave their slots."""
        self._planned = None

    # ---- faults and accounts

    def _halving(self, entries: Many[_Entry], done: list[tuple[Many[_Entry], float]]) -> list[SequenceOutput]:
        """Their outputs, the faults of some leaving the others alone. `done`: the passes that went well, in seconds."""
        if not entries:
            return []
        begin = time.monotonic()
        try:
            outputs = self._run(entries)
        except Exception as error:
            self.forget()
            self._check_device()
            if len(entries) == 1:
                sequence = entries[0].sequence
                logger.error("a sequence of the task %s failed", sequence.request.task, exc_info=error)
                return [SequenceOutput(sequence, error=error)]
        else:
            done.append((entries, time.monotonic() - begin))
            return outputs
        middle = len(entries) // 2  # beside the handler, where the failed pass's tensors are held no longer
        return self._halving(entries[:middle], done) + self._halving(entries[middle:], done)

    def _check_device(self) -> None:
        """After a fault: raises where the device itself is lost, so that no sequence is at fault and no pass helps."""
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)

    def _account(self, entries: Many[_Entry], seconds: float) -> None:
        """Tells of a pass, and notes it with every request in it."""
        report = BatchReport(
            id=next(self._ids),
            tasks=dict(Counter(entry.sequence.request.task for entry in entries)),
            methods=tuple(sorted({entry.adapter.method for entry in entries})),
            sequences=len(entries),
            tokens=sum(entry.tokens for entry in entries),
            seconds=seconds,
        )
        self.on_batch(report)
        for request in {entry.sequence.request for entry in entries}:
            request.compute += seconds
            request.batch = report

    # ---- a pass

    def _run(self, entries: Many[_Entry]) -> list[SequenceOutput]:
        """One pass over all of them, or as few as the backbone allows."""
        pooled: list[tuple[Sequence, Tensor]] = []
        ended: list[Sequence] = []
        logits: list[Tensor] = []
        for group in self._groups(entries):
            states, plan, batch, ending, read = self._encode(group)
            if read is not None:
                pooled += [(e.sequence, out) for e, out in zip(group, read(states), strict=True) if out is not None]
            if ending is not None:
                ended += [entry.sequence for entry in group if entry.ends]
                logits.append(ending)
            asked = [_scoring(entry, start) for entry, start in zip(group, batch.starts, strict=False)]
            if any(one is not None for one in asked):
                score_pass(self.backbone, plan, states, asked)
        outputs = self._pooled(pooled) + self._sampled(ended, logits)
        with_output = {output.sequence for output in outputs}
        return outputs + [SequenceOutput(e.sequence) for e in entries if e.sequence not in with_output]

    def _groups(self, entries: Many[_Entry]) -> list[Many[_Entry]]:
        """Which go through the backbone together: all of them, unless the model runs padded."""
        if self.backbone.family.packed:
            return [entries]
        return [[entries[i] for i in own] for own in passes(self.backbone, [e.sequence.length for e in entries])]

    def _encode(self, group: Many[_Entry]) -> tuple[Tensor, Plan, PackedBatch, Tensor | None, ReadOut | None]:
        """The last states of all tokens of a pass, who acted where, the logits of what is to be continued, and what is
        read out of the states besides."""
        known = self._known(group)
        plan = known.plan if known is not None else Plan(self.backbone, segments_of([entry.adapter for entry in group]))
        staging = self.backbone.staging()
        batch = self._packed(group, plan, staging)
        last = [[stop - 1] if e.ends else [] for e, stop in zip(group, batch.starts[1:], strict=True)]
        segments, rows = asked_segments(plan, last)
        if len(rows) < batch.starts[-1]:
            staging.put("last", np.array(rows, dtype=np.int64))
        one_pass = [_row(entry) if entry.sequence.sampling is None else None for entry in group]
        read = None
        if any(row is not None for row in one_pass):
            read = ReadOut(self.backbone, plan, batch, one_pass, staging)
        staging.commit()
        if known is None:
            actors = plan.token_actors(batch)
            vocabulary = vocabulary_actors(self.backbone, plan, segments) if rows else None
            known = _planned(group, plan, actors, vocabulary)
            self._planned = None if actors.states else known
        states = self.backbone.encode(batch, known.actors)
        if known.vocabulary is None:
            return states, plan, batch, None, read
        ending = states.index_select(0, staging["last"]) if "last" in staging else states
        return states, plan, batch, self.backbone.vocabulary_logits(ending, known.vocabulary), read

    def _known(self, group: Many[_Entry]) -> _Planned | None:
        """The last pass's plan, where it is this one's too."""
        last = self._planned
        if last is None or len(last.adapters) != len(group):
            return None
        for entry, adapter, length, ends in zip(group, last.adapters, last.lengths, last.ending, strict=True):
            if entry.adapter is not adapter or entry.tokens != length or entry.ends != ends:
                return None
        return last

    def _packed(self, group: Many[_Entry], plan: Plan, staging: StagingBuffer) -> PackedBatch:
        """The tokens of a pass side by side: whole sequences, and chunks whose keys and values go into the cache."""
        chunks = [_cached_chunk(e) if e.cached else whole_chunk(_row(e), plan, i) for i, e in enumerate(group)]
        cache = self.cache.tensors if self.cache is not None and any(e.cached for e in group) else None
        return pack_chunks(self.backbone, cache, chunks, staging)

    # ---- what it gives

    def _pooled(self, read: Many[tuple[Sequence, Tensor]]) -> list[SequenceOutput]:
        """Sets the answers of sequences that one pass answers: in float32, in one copy from the device."""
        if not read:
            return []
        tensors = [tensor for _, tensor in read]
        flat: Output = torch.cat([tensor.reshape(-1) for tensor in tensors]).float().cpu().numpy()
        finite = bool(np.isfinite(flat).all())
        ends = itertools.accumulate(tensor.numel() for tensor in tensors)
        outputs = []
        for (sequence, tensor), end in zip(read, ends, strict=True):
            own = flat[end - tensor.numel() : end].reshape(tuple(tensor.shape))
            if finite or np.isfinite(own).all():
                sequence.pooled = own
                outputs.append(SequenceOutput(sequence))
            else:
                outputs.append(SequenceOutput(sequence, error=_not_finite(sequence)))
        return outputs

    def _sampled(self, sequences: Many[Sequence], parts: Many[Tensor]) -> list[SequenceOutput]:
        """The next token of each. A form that cannot be followed fails its own sequence."""
        if not sequences:
            return []
        logits = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        faults: dict[Sequence, Exception] = {}
        inputs: list[SamplingInput] = []
        for sequence in sequences:
            params = sequence.sampling
            assert params is not None
            constraint: Tensor | None = None
            try:
                constraint = None if sequence.constraint is None else sequence.constraint.bits()
            except Exception as error:
                faults[sequence] = error
            history = sequence.history
            if history is not None:
                history.follow(sequence.output)
            output = history.output if history is not None else ()
            inputs.append(SamplingInput(params, sequence.random, sequence.prompt, output, constraint, history))
        drawn = [(one.random, one.random.bit_generator.state) for one in inputs if one.random is not None]
        try:
            tokens, finite = sample(logits, inputs, self.backbone.staging())
        except Exception:
            for random, state in drawn:  # the same numbers again, when it is tried without the culprit
                random.bit_generator.state = state
            raise
        outputs = []
        for sequence, token, fine in zip(sequences, tokens, finite, strict=True):
            fault = faults.get(sequence) if fine else _not_finite(sequence)
            outputs.append(SequenceOutput(sequence, None if fault else token, error=fault))
        return outputs


def _planned(group: Many[_Entry], plan: Plan, actors: Actors, vocabulary: Actors | None) -> _Planned:
    adapters = [entry.adapter for entry in group]
    return _Planned(
        adapters, [entry.tokens for entry in group], [entry.ends for entry in group], plan, actors, vocabulary
    )


def _entry(scheduled: ScheduledSequence) -> _Entry:
    sequence, tokens, cached = scheduled
    adapter = sequence.adapter
    if cached:
        begins = sequence.virtual > 0 and sequence.computed == 0
        adapter = adapter.starting if begins else adapter.resumed
    return _Entry(adapter, sequence, tokens, cached)


def _row(entry: _Entry) -> Row:
    """A whole sequence, and what it asks of the pass."""
    sequence = entry.sequence
    ids = sequence.content(sequence.virtual, sequence.length) if sequence.output else sequence.prompt
    type_ids = sequence.type_ids or [0] * len(ids)
    params = sequence.params
    if isinstance(params, PoolingParams):
        return Row(ids, type_ids, entry.adapter, params.pooling, masks=params.masks, skip=params.skip)
    return Row(ids, type_ids, entry.adapter)


def _cached_chunk(entry: _Entry) -> SequenceChunk:
    """The next positions of a sequence whose earlier ones are in the cache."""
    sequence = entry.sequence
    start, stop = sequence.computed, sequence.computed + entry.tokens
    virtual = max(min(stop, sequence.virtual) - start, 0)
    return SequenceChunk(
        sequence.content(start, stop)[virtual:],
        start + virtual - sequence.virtual,
        virtual,
        sequence.adapter.position_shift,
        sequence.rows[: sequence.prefix_rows + stop],
        sequence.prefix_rows,
        sequence.adapter.prefix_left_out,
    )


def _scoring(entry: _Entry, row: int) -> tuple[PromptScoring, int, range] | None:
    """What a pass tells of a prompt, for `score_pass`. `row`: where the sequence begins in the pass."""
    sequence = entry.sequence
    if sequence.scores is None or sequence.scores.complete:
        return None
    begin = (sequence.computed if entry.cached else 0) - sequence.virtual  # the prompt's position that stands in `row`
    return sequence.scores, row - begin, sequence.scores.wanted(begin, begin + entry.tokens)


def _not_finite(sequence: Sequence) -> EngineFailure:
    return EngineFailure(f"the task {sequence.request.task} gives values that are not finite")
