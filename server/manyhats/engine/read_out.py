"""Computes the outputs of sequences from the last states of a pass: heads, pooling and the language-model head.

Each of these runs once for all sequences that need it. The rows that they read are known before the pass, so that their
indices are copied to the device together with the pass's other inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from manyhats.backbone import Actors, Backbone, PackedBatch, StagingBuffer
from manyhats.backbone.pooling import PooledRows, PooledVectors
from manyhats.backbone.sentence import EVERY_TOKEN, Pooling, Projection, modes_of
from manyhats.engine.forward_input import ForwardInput
from manyhats.methods.grouped_heads import GroupedHeads, HeadRows
from manyhats.methods.plan import AdapterSegment, Plan
from manyhats.methods.slots import slot_tables


@dataclass(slots=True)
class _HeadInputs:
    """The rows of the states that heads read. `sequences`: for each sequence the slice of `rows` that is its own."""

    rows: list[int] = field(default_factory=list)
    owners: list[HeadRows] = field(default_factory=list)
    sequences: dict[int, slice] = field(default_factory=dict)
    heads: GroupedHeads = field(init=False)

    def add(self, sequence: int, segment: AdapterSegment, rows: Iterable[int]) -> None:
        begin = len(self.rows)
        self.rows += rows
        self.sequences[sequence] = slice(begin, len(self.rows))
        if self.owners and self.owners[-1].adapter is segment.adapter:
            begin = self.owners.pop().start
        self.owners.append(HeadRows(segment.adapter, begin, len(self.rows)))


@dataclass(slots=True)
class _Vectors:
    """Sequences with the same pooling and projection."""

    projection: Projection
    modes: Sequence[str]
    sequences: list[int] = field(default_factory=list)
    ranges: list[PooledRows] = field(default_factory=list)
    pooled: PooledVectors = field(init=False)


class ReadOut:
    """The outputs of one pass. `inputs`: its sequences in the plan's order, None for those without an output.

    It stages indices, so it must be made before `staging`, in which `batch` was packed, is committed.
    """

    def __init__(
        self,
        backbone: Backbone,
        plan: Plan,
        batch: PackedBatch,
        inputs: Sequence[ForwardInput | None],
        staging: StagingBuffer,
    ) -> None:
        self._backbone = backbone
        self._staging = staging
        self._inputs = inputs
        self._heads = _HeadInputs()
        self._pooler = _HeadInputs()  # for heads that read the backbone's pooler
        self._vectors: dict[tuple[Pooling, int], _Vectors] = {}
        self._all_states: dict[int, slice] = {}  # sequences that return all of their states
        vocabulary: list[list[int]] = [[] for _ in inputs]
        for segment in plan.segments:
            for i in range(segment.sequences.start, segment.sequences.stop):
                sequence_input = inputs[i]
                if sequence_input is None:
                    continue
                begin = batch.starts[i]
                tokens = range(begin + sequence_input.adapter.virtual_tokens, begin + batch.lengths[i])
                if sequence_input.next_token or sequence_input.mask_positions:
                    vocabulary[i] = (
                        [tokens[-1]]
                        if sequence_input.next_token
                        else [tokens[position] for position in sequence_input.mask_positions]
                    )
                elif (head := sequence_input.adapter.head) is None:
                    self._add_vector(i, sequence_input, tokens)
                elif head.reads == "pooler":
                    self._pooler.add(i, segment, [begin])
                else:
                    read = {"first": [begin], "last": tokens[-1:]}.get(head.reads, tokens)
                    self._heads.add(i, segment, read)
        self._vocabulary = vocabulary
        self._segments, selected = selected_segments(plan, vocabulary)
        for name, own in (("vocabulary", selected), ("heads", self._heads.rows), ("pooler", self._pooler.rows)):
            if own:
                staging.put(f"read {name}", np.array(own, dtype=np.int64))
        for heads in (self._heads, self._pooler):
            if heads.rows:
                heads.heads = GroupedHeads(slot_tables(backbone), heads.owners, staging, backbone.device)
        self._vocabulary_actors = vocabulary_actors(backbone, plan, self._segments, staging) if self._segments else None
        pooled = [AdapterSegment(own.adapter, slice(own.start, own.stop)) for own in self._pooler.owners]
        self._pooler_actors = plan.sequence_actors(pooled, staging=staging) if pooled else None
        for number, vectors in enumerate(self._vectors.values()):
            vectors.pooled = PooledVectors(
                staging, f"read vectors {number}", vectors.ranges, vectors.modes, batch.starts[-1]
            )

    def _add_vector(self, sequence: int, sequence_input: ForwardInput, tokens: range) -> None:
        if sequence_input.pooling == EVERY_TOKEN:
            self._all_states[sequence] = slice(tokens.start, tokens.stop)
            return
        projection = sequence_input.adapter.projection or self._backbone.sentence_embedding.projection
        key = sequence_input.pooling, id(projection)
        own = self._vectors.setdefault(key, _Vectors(projection, modes_of(sequence_input.pooling)))
        own.sequences.append(sequence)
        own.ranges.append(PooledRows(tokens.start, tokens.stop, sequence_input.skip))

    def __call__(self, states: Tensor) -> list[Tensor | None]:
        """The output of each sequence, as described in `engine.forward.forward`; None for those without one.

        `states`: (rows of the pass, width).
        """
        outputs: list[Tensor | None] = [None] * len(self._inputs)
        if self._vocabulary_actors is not None:
            logits = self._backbone.vocabulary_logits(self._select(states, "vocabulary"), self._vocabulary_actors)
            start = 0
            for i, own in enumerate(self._vocabulary):
                sequence_input = self._inputs[i]
                if own and sequence_input is not None:
                    outputs[i] = logits[start] if sequence_input.next_token else logits[start : start + len(own)]
                    start += len(own)
        if self._heads.rows:
            self._put_head_logits(self._heads, self._select(states, "heads"), outputs)
        if self._pooler_actors is not None:
            pooled = self._backbone.pool(self._select(states, "pooler"), self._pooler_actors)
            self._put_head_logits(self._pooler, pooled, outputs)
        for vectors in self._vectors.values():
            found = vectors.projection(vectors.pooled(states))
            for i, vector in zip(vectors.sequences, found.unbind(0), strict=True):
                outputs[i] = vector
        for i, rows in self._all_states.items():
            outputs[i] = states[rows]
        return outputs

    def _select(self, states: Tensor, name: str) -> Tensor:
        return states.index_select(0, self._staging[f"read {name}"])

    def _put_head_logits(self, heads: _HeadInputs, states: Tensor, outputs: list[Tensor | None]) -> None:
        logits = heads.heads(states)
        for i, own in heads.sequences.items():
            sequence_input = self._inputs[i]
            assert sequence_input is not None
            assert sequence_input.adapter.head is not None
            labels = slice(sequence_input.adapter.head.num_labels)
            outputs[i] = (
                logits[own, labels] if sequence_input.adapter.head.reads == "tokens" else logits[own.start, labels]
            )


def vocabulary_logits(
    backbone: Backbone, plan: Plan, states: Tensor, positions: Sequence[Sequence[int]]
) -> Tensor | None:
    """The language-model head's logits at some rows of `states`; None where no rows are given.

    `positions`: the rows of each sequence of the plan. Returns (all positions, vocabulary), in the plan's order.
    """
    segments, rows = selected_segments(plan, positions)
    if not rows:
        return None
    selected = states.index_select(0, torch.tensor(rows, device=states.device))
    return backbone.vocabulary_logits(selected, vocabulary_actors(backbone, plan, segments))


def selected_segments(plan: Plan, positions: Sequence[Sequence[int]]) -> tuple[list[AdapterSegment], list[int]]:
    """The segments that the selected rows form when packed, and these rows. `positions`: see `vocabulary_logits`."""
    rows: list[int] = []
    segments: list[AdapterSegment] = []
    for segment in plan.segments:
        own = [row for i in range(segment.sequences.start, segment.sequences.stop) for row in positions[i]]
        if own:
            segments.append(AdapterSegment(segment.adapter, slice(len(rows), len(rows) + len(own))))
            rows += own
    return segments, rows


def vocabulary_actors(
    backbone: Backbone, plan: Plan, segments: Sequence[AdapterSegment], staging: StagingBuffer | None = None
) -> Actors:
    """The actors in the language-model head for rows that form `segments`. `staging`: see `Plan.sequence_actors`."""
    head = backbone.vocabulary
    return plan.sequence_actors(segments, frozenset() if head is None else head.parts, staging)
