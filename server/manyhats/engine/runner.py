"""Executes a scheduled batch: packs it, runs the backbone, and computes the output of each sequence.

An error fails only the sequence that caused it (see `fault_isolation`), and values that are not finite fail their own
sequence.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyhats.backbone import Actors, Backbone, PackedBatch, SequenceChunk, StagingBuffer, pack_chunks
from manyhats.backbone.filler import filler
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.core.report import BatchReport
from manyhats.core.sequence import Output, PoolingParams, PromptLogprobsSink, Sequence
from manyhats.engine.decode_graph import CudaCapture, DecodeGraphs
from manyhats.engine.entry import Entry, make_entry
from manyhats.engine.fault_isolation import FaultIsolation
from manyhats.engine.forward import padded_groups, whole_chunk
from manyhats.engine.forward_input import ForwardInput
from manyhats.engine.kv_cache import KVCache
from manyhats.engine.prompt_logprobs import compute_prompt_logprobs
from manyhats.engine.read_out import ReadOut, selected_segments, vocabulary_actors
from manyhats.engine.token_sampling import TokenSampling
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.plan import Plan, in_batch_order, segments_of
from manyhats.methods.slots import slot_tables


class _CachedPlan(NamedTuple):
    """The plan of the last pass. It is used again while the same adapters have as many tokens each, as in most decode
    steps. `samples`: for which entries a token is sampled."""

    adapters: list[BoundAdapter]
    lengths: list[int]
    samples: list[bool]
    plan: Plan
    actors: Actors
    vocabulary: Actors | None


class Runner:
    """Executes batches, one at a time. Only the model's thread uses it. Raises where the device is lost.

    `cache`: None for backbones without a language model. `on_batch` is called with a report of every pass. `graphs`: of
    decode steps; None where steps run without, as with `enforce_eager` and on other devices than CUDA.
    """

    def __init__(self, backbone: Backbone, cache: KVCache | None, *, enforce_eager: bool = False) -> None:
        self.backbone = backbone
        self.cache = cache
        self.on_batch: Callable[[BatchReport], None] = lambda report: None
        self._ids = itertools.count(1)
        self._cached_plan: _CachedPlan | None = None
        self.graphs = None if cache is None or enforce_eager else _graphs_of(backbone)
        self._isolation = FaultIsolation(lambda entries: self._run(entries), self._after_failure, backbone.device)

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch) -> list[SequenceOutput]:
        """Runs a batch. Returns one output for each of its sequences.

        Sets `pooled` of the sequences that one pass answers. Of the others, those at their last position get a token.
        """
        entries = in_batch_order(map(make_entry, batch.sequences), lambda entry: entry.adapter)
        done: list[tuple[Many[Entry], float]] = []
        outputs = self._isolation.run(entries, done)
        for ran, seconds in done:
            self._report(ran, seconds)
        return outputs

    def drop_plan(self) -> None:
        """Drops the cached plan, whose references would keep the slots of unused adapters occupied."""
        self._cached_plan = None
        if self.graphs is not None:
            self.graphs.drop_plan()

    # ---- fault isolation and reports

    @property
    def on_out_of_memory(self) -> Callable[[int], None]:
        """Called with the tokens of each pass for which there was no memory."""
        return self._isolation.on_out_of_memory

    @on_out_of_memory.setter
    def on_out_of_memory(self, call: Callable[[int], None]) -> None:
        self._isolation.on_out_of_memory = call

    def _after_failure(self) -> None:
        self.drop_plan()
        self._check_device()

    def _check_device(self) -> None:
        """Raises where the device itself has failed: then no sequence is at fault, and others would fail too."""
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)

    def _report(self, entries: Many[Entry], seconds: float) -> None:
        """Reports a pass to `on_batch` and to every request in it."""
        adapters = {entry.adapter for entry in entries}
        report = BatchReport(
            id=next(self._ids),
            tasks=dict(Counter(entry.sequence.request.task for entry in entries)),
            methods=tuple(sorted({adapter.method for adapter in adapters})),
            sequences=len(entries),
            tokens=sum(entry.tokens for entry in entries),
            seconds=seconds,
            signatures=len({adapter.signature for adapter in adapters}),
        )
        self.on_batch(report)
        for request in {entry.sequence.request for entry in entries}:
            request.compute += seconds
            request.batch = report

    # ---- one pass

    def _run(self, entries: Many[Entry]) -> list[SequenceOutput]:
        """Runs all entries in one pass, or in as few passes as the backbone allows."""
        pooled: list[tuple[Sequence, Tensor]] = []
        outputs: list[SequenceOutput] = []
        for group in self._groups(entries):
            sampled = [entry.sequence for entry in group if entry.samples]
            # What a constraint allows takes the host a while, which it spends while the device computes.
            later = any(sequence.constraint is not None for sequence in sampled)
            sampling = self._sampling(sampled) if sampled and not later else None
            try:
                logits, staging = self._decode(group, sampling) or self._pass(group, sampling, pooled)
                if sampled and sampling is None:
                    sampling = self._sampling(sampled)
                    staging = sampling.commit(self.backbone.staging())
                if sampling is not None and logits is not None:
                    outputs += sampling.outputs(logits, staging)
            except Exception:
                if sampling is not None:
                    sampling.restore()
                raise
        outputs = self._collect_pooled(pooled) + outputs
        with_output = {output.sequence for output in outputs}
        return outputs + [SequenceOutput(e.sequence) for e in entries if e.sequence not in with_output]

    def _sampling(self, sequences: Many[Sequence]) -> TokenSampling:
        head = self.backbone.vocabulary
        assert head is not None, "sequences that generate need a language model"
        return TokenSampling(sequences, head.size, self.backbone.device)

    def _decode(self, group: Many[Entry], sampling: TokenSampling | None) -> tuple[Tensor, StagingBuffer] | None:
        """The logits of a step in a CUDA graph, and the step's staging buffer, with what is sampled by; None where the
        pass is none of one new token for each sequence, or has no graph."""
        if self.graphs is None or self.cache is None:
            return None
        for entry in group:
            logprobs = entry.sequence.prompt_logprobs
            if (
                not entry.cached
                or entry.tokens != 1
                or not entry.samples
                or not (logprobs is None or logprobs.complete)
            ):
                return None
        return self.graphs.logits(
            [entry.adapter for entry in group],
            [_cached_chunk(entry) for entry in group],
            self.cache.tensors,
            lambda staging: None if sampling is None else sampling.put(staging),
        )

    def _pass(
        self, group: Many[Entry], sampling: TokenSampling | None, pooled: list[tuple[Sequence, Tensor]]
    ) -> tuple[Tensor | None, StagingBuffer]:
        """Runs one pass. Returns the logits to sample from, None where there are none, and the pass's staging buffer.

        Appends the outputs of one-pass sequences to `pooled`.
        """
        states, plan, batch, logits, read = self._forward(group, sampling)
        if read is not None:
            pooled += [(e.sequence, out) for e, out in zip(group, read(states), strict=True) if out is not None]
        requested = [_prompt_logprobs_request(entry, start) for entry, start in zip(group, batch.starts, strict=False)]
        if any(one is not None for one in requested):
            compute_prompt_logprobs(self.backbone, plan, states, requested)
        return logits, batch.staging

    def _groups(self, entries: Many[Entry]) -> list[Many[Entry]]:
        """The entries that share a pass: all of them, unless the model runs padded."""
        if self.backbone.family.packed:
            return [entries]
        return [[entries[i] for i in own] for own in padded_groups(self.backbone, [e.sequence.length for e in entries])]

    def _forward(
        self, group: Many[Entry], sampling: TokenSampling | None
    ) -> tuple[Tensor, Plan, PackedBatch, Tensor | None, ReadOut | None]:
        """Runs the backbone. Returns the last states of all tokens, the plan, the packed batch, the logits to sample
        from, and what computes the outputs of one-pass sequences; None where there are none of these.

        `sampling`: its parameters go to the device with the pass.
        """
        cached = self._matching_plan(group)
        plan = (
            cached.plan if cached is not None else Plan(self.backbone, segments_of([entry.adapter for entry in group]))
        )
        staging = self.backbone.staging()
        batch = self._pack(group, plan, staging)
        stops = batch.starts[1 : len(group) + 1]
        last = [[stop - 1] if e.samples else [] for e, stop in zip(group, stops, strict=True)]
        segments, rows = selected_segments(plan, last)
        if len(rows) < batch.starts[-1]:
            staging.put("last", np.array(rows, dtype=np.int64))
        one_pass = [_forward_input(entry) if entry.sequence.sampling is None else None for entry in group]
        read = None
        if any(row is not None for row in one_pass):
            read = ReadOut(self.backbone, plan, batch, one_pass, staging)
        if cached is None:
            actors = plan.token_actors(batch)
            vocabulary = vocabulary_actors(self.backbone, plan, segments, staging) if rows else None
            cached = _make_plan(group, plan, actors, vocabulary)
        if sampling is not None:
            sampling.put(staging)
        staging.commit()
        self._cached_plan = None if cached.actors.states else cached
        states = self.backbone.encode(batch, cached.actors)
        if cached.vocabulary is None:
            return states, plan, batch, None, read
        last_states = states.index_select(0, staging["last"]) if "last" in staging else states
        return states, plan, batch, self.backbone.vocabulary_logits(last_states, cached.vocabulary), read

    def _matching_plan(self, group: Many[Entry]) -> _CachedPlan | None:
        """The last pass's plan, where it fits this pass too."""
        last = self._cached_plan
        if last is None or len(last.adapters) != len(group):
            return None
        for entry, adapter, length, samples in zip(group, last.adapters, last.lengths, last.samples, strict=True):
            if entry.adapter is not adapter or entry.tokens != length or entry.samples != samples:
                return None
        return last

    def _pack(self, group: Many[Entry], plan: Plan, staging: StagingBuffer) -> PackedBatch:
        """Packs the tokens of a pass: whole sequences, and chunks whose keys and values go into the cache."""
        chunks = [
            _cached_chunk(e) if e.cached else whole_chunk(_forward_input(e), plan, i) for i, e in enumerate(group)
        ]
        cache = self.cache.tensors if self.cache is not None and any(e.cached for e in group) else None
        return pack_chunks(self.backbone, cache, [*chunks, *self._filler(group, plan, chunks)], staging)

    def _filler(self, group: Many[Entry], plan: Plan, chunks: Many[SequenceChunk]) -> list[SequenceChunk]:
        """What is computed beside the group, and read by nobody. Decode steps have no use for it: there are few numbers
        of sequences. Nor have products of some of the rows, as with weights of an adapter's own."""
        if not self.backbone.compiles_products or plan.own_weight:
            return []
        if all(entry.cached and entry.tokens == 1 for entry in group):
            return []
        rows = sum(chunk.length for chunk in chunks)
        return filler(rows, self.backbone.config.pad_token_id, self.backbone.max_tokens)

    # ---- outputs

    def _collect_pooled(self, read: Many[tuple[Sequence, Tensor]]) -> list[SequenceOutput]:
        """Sets `pooled` of sequences, in float32, with one copy from the device."""
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
                outputs.append(SequenceOutput.not_finite(sequence))
        return outputs


def _graphs_of(backbone: Backbone) -> DecodeGraphs | None:
    captures = slot_tables(backbone).kernels.captures
    if captures is None or backbone.device.type != "cuda" or not torch.cuda.is_available():
        return None
    return DecodeGraphs(backbone, captures, CudaCapture(backbone.device))


def _make_plan(group: Many[Entry], plan: Plan, actors: Actors, vocabulary: Actors | None) -> _CachedPlan:
    adapters = [entry.adapter for entry in group]
    return _CachedPlan(
        adapters, [entry.tokens for entry in group], [entry.samples for entry in group], plan, actors, vocabulary
    )


def _forward_input(entry: Entry) -> ForwardInput:
    """The input of a sequence that the pass computes as a whole."""
    sequence = entry.sequence
    ids = sequence.content(sequence.virtual, sequence.length) if sequence.output else sequence.prompt
    type_ids = sequence.type_ids or [0] * len(ids)
    params = sequence.params
    if isinstance(params, PoolingParams):
        return ForwardInput(
            ids, type_ids, entry.adapter, params.pooling, mask_positions=params.mask_positions, skip=params.skip
        )
    return ForwardInput(ids, type_ids, entry.adapter)


def _cached_chunk(entry: Entry) -> SequenceChunk:
    """The next positions of a sequence whose earlier positions are in the cache."""
    sequence = entry.sequence
    start, stop = sequence.computed, sequence.computed + entry.tokens
    virtual = max(min(stop, sequence.virtual) - start, 0)
    return SequenceChunk(
        sequence.content(start, stop)[virtual:],
        start + virtual - sequence.virtual,
        virtual,
        sequence.adapter.position_offset,
        sequence.slot_mapping[: sequence.prefix_rows + stop],
        sequence.prefix_rows,
        sequence.adapter.prefix_left_out,
    )


def _prompt_logprobs_request(entry: Entry, row: int) -> tuple[PromptLogprobsSink, int, range] | None:
    """Which log probabilities of its prompt a pass computes, for `compute_prompt_logprobs`; None where none are wanted.

    `row`: the sequence's first row in the pass.
    """
    sequence = entry.sequence
    if sequence.prompt_logprobs is None or sequence.prompt_logprobs.complete:
        return None
    begin = (sequence.computed if entry.cached else 0) - sequence.virtual  # the prompt's position in `row`
    return sequence.prompt_logprobs, row - begin, sequence.prompt_logprobs.wanted(begin, begin + entry.tokens)
