"""What sequences ask of the last states of a pass: heads, vectors, the language-model head; all sequences together.

Which rows are read is known before the pass, so their numbers go to the device with everything else that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from manyhats.backbone import Actors, Backbone, PackedBatch, StagingBuffer
from manyhats.backbone.pooling import PooledSpans, Span
from manyhats.backbone.sentence import EVERY_TOKEN, Pooling, Projection, modes_of
from manyhats.engine.row import Row
from manyhats.methods.grouped_heads import HeadRows, head_logits
from manyhats.methods.plan import Plan, Segment
from manyhats.methods.slots import slot_tables


@dataclass(slots=True)
class _Heads:
    """What heads read: `rows` of the states, side by side. `sequences`: by sequence, where its own lie among them."""

    rows: list[int] = field(default_factory=list)
    owners: list[HeadRows] = field(default_factory=list)
    sequences: dict[int, slice] = field(default_factory=dict)

    def ask(self, sequence: int, segment: Segment, rows: Iterable[int]) -> None:
        begin = len(self.rows)
        self.rows += rows
        self.sequences[sequence] = slice(begin, len(self.rows))
        if self.owners and self.owners[-1].adapter is segment.adapter:
            begin = self.owners.pop().start
        self.owners.append(HeadRows(segment.adapter, begin, len(self.rows)))


@dataclass(slots=True)
class _Vectors:
    """Sequences whose states become vectors in one way."""

    projection: Projection
    modes: Sequence[str]
    sequences: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    pooled: PooledSpans = field(init=False)


class ReadOut:
    """What the sequences of one pass ask, by sequence of its plan. `rows`: None for those that ask nothing.

    Made before `staging`, in which `batch` was laid out, is committed.
    """

    def __init__(
        self, backbone: Backbone, plan: Plan, batch: PackedBatch, rows: Sequence[Row | None], staging: StagingBuffer
    ) -> None:
        self._backbone = backbone
        self._plan = plan
        self._staging = staging
        self._rows = rows
        self._heads = _Heads()
        self._pooler = _Heads()  # what heads behind the backbone's pooler read
        self._vectors: dict[tuple[Pooling, int], _Vectors] = {}
        self._every: dict[int, slice] = {}  # who asks for all states
        vocabulary: list[list[int]] = [[] for _ in rows]
        for segment in plan.segments:
            for i in range(segment.sequences.start, segment.sequences.stop):
                row = rows[i]
                if row is None:
                    continue
                begin = batch.starts[i]
                tokens = range(begin + row.adapter.virtual_tokens, begin + batch.lengths[i])
                if row.continues or row.masks:
                    vocabulary[i] = [tokens[-1]] if row.continues else [tokens[place] for place in row.masks]
                elif (head := row.adapter.head) is None:
                    self._ask_vector(i, row, tokens)
                elif head.reads == "pooler":
                    self._pooler.ask(i, segment, [begin])
                else:
                    read = {"first": [begin], "last": tokens[-1:]}.get(head.reads, tokens)
                    self._heads.ask(i, segment, read)
        self._vocabulary = vocabulary
        self._segments, asked = asked_segments(plan, vocabulary)
        for name, own in (("vocabulary", asked), ("heads", self._heads.rows), ("pooler", self._pooler.rows)):
            if own:
                staging.put(f"read {name}", np.array(own, dtype=np.int64))
        for number, vectors in enumerate(self._vectors.values()):
            vectors.pooled = PooledSpans(
                staging, f"read vectors {number}", vectors.spans, vectors.modes, batch.starts[-1]
            )

    def _ask_vector(self, sequence: int, row: Row, tokens: range) -> None:
        if row.pooling == EVERY_TOKEN:
            self._every[sequence] = slice(tokens.start, tokens.stop)
            return
        projection = row.adapter.projection or self._backbone.sentence_embedding.projection
        key = row.pooling, id(projection)
        own = self._vectors.setdefault(key, _Vectors(projection, modes_of(row.pooling)))
        own.sequences.append(sequence)
        own.spans.append(Span(tokens.start, tokens.stop, row.skip))

    def __call__(self, states: Tensor) -> list[Tensor | None]:
        """What each sequence gets, as `engine.forward.forward` says; None for those that ask nothing.

        `states`: (rows of the pass, width).
        """
        outputs: list[Tensor | None] = [None] * len(self._rows)
        if self._segments:
            logits = self._backbone.vocabulary_logits(
                self._chosen(states, "vocabulary"), vocabulary_actors(self._backbone, self._plan, self._segments)
            )
            done = 0
            for i, asked in enumerate(self._vocabulary):
                row = self._rows[i]
                if asked and row is not None:
                    outputs[i] = logits[done] if row.continues else logits[done : done + len(asked)]
                    done += len(asked)
        if self._heads.rows:
            self._put_logits(self._heads, self._chosen(states, "heads"), outputs)
        if self._pooler.rows:
            segments = [Segment(own.adapter, slice(own.start, own.stop)) for own in self._pooler.owners]
            pooled = self._backbone.pool(self._chosen(states, "pooler"), self._plan.sequence_actors(segments))
            self._put_logits(self._pooler, pooled, outputs)
        for vectors in self._vectors.values():
            found = vectors.projection(vectors.pooled(states))
            for i, vector in zip(vectors.sequences, found.unbind(0), strict=True):
                outputs[i] = vector
        for i, span in self._every.items():
            outputs[i] = states[span]
        return outputs

    def _chosen(self, states: Tensor, name: str) -> Tensor:
        return states.index_select(0, self._staging[f"read {name}"])

    def _put_logits(self, heads: _Heads, states: Tensor, outputs: list[Tensor | None]) -> None:
        logits = head_logits(slot_tables(self._backbone), states, heads.owners)
        for i, own in heads.sequences.items():
            row = self._rows[i]
            assert row is not None
            assert row.adapter.head is not None
            labels = slice(row.adapter.head.num_labels)
            outputs[i] = logits[own, labels] if row.adapter.head.reads == "tokens" else logits[own.start, labels]


def vocabulary_logits(
    backbone: Backbone, plan: Plan, states: Tensor, positions: Sequence[Sequence[int]]
) -> Tensor | None:
    """The language-model head on some rows of `states`; None where there are none.

    `positions`: for each sequence of the plan its rows that are asked. Returns (all positions, vocabulary), in order.
    """
    segments, rows = asked_segments(plan, positions)
    if not rows:
        return None
    chosen = states.index_select(0, torch.tensor(rows, device=states.device))
    return backbone.vocabulary_logits(chosen, vocabulary_actors(backbone, plan, segments))


def asked_segments(plan: Plan, positions: Sequence[Sequence[int]]) -> tuple[list[Segment], list[int]]:
    """The rows of `vocabulary_logits`, in order, and the segments that they form side by side."""
    rows: list[int] = []
    segments: list[Segment] = []
    for segment in plan.segments:
        own = [row for i in range(segment.sequences.start, segment.sequences.stop) for row in positions[i]]
        if own:
            segments.append(Segment(segment.adapter, slice(len(rows), len(rows) + len(own))))
            rows += own
    return segments, rows


def vocabulary_actors(backbone: Backbone, plan: Plan, segments: Sequence[Segment]) -> Actors:
    """What acts in the language-model head on rows that form `segments`."""
    head = backbone.vocabulary
    return plan.sequence_actors(segments, frozenset() if head is None else head.parts)
