"""One forward pass over a packed batch, heads included. Serving and training both run exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyhats.backbone import Actors, Backbone, PackedBatch, SequenceChunk, pack_chunks, padded_length
from manyhats.backbone.sentence import EVERY_TOKEN, Pooling, pool
from manyhats.methods.adapter import BoundAdapter
from manyhats.methods.plan import Plan, Segment, segments_of

# A padded pass takes rows up to this much longer than its shortest: a trade between pads and the number of passes.
_PAD_GROWTH = 1.5
_PAD_SLACK = 16


@dataclass(frozen=True, slots=True)
class Row:
    """What one whole sequence asks of a pass: its tokens and the adapter that it belongs to.

    `pooling` (for adapters without a head): how the last hidden states become one vector (see `backbone.sentence`), or
    `none`. `skip`: how many tokens at the beginning are not pooled.
    `continues`: asks for the language-model head on the last token instead. `masks`: asks for it on these tokens.
    """

    ids: Sequence[int]
    type_ids: Sequence[int]
    adapter: BoundAdapter
    pooling: Pooling = "mean"
    continues: bool = False
    masks: tuple[int, ...] = ()
    skip: int = 0


def forward(backbone: Backbone, rows: Sequence[Row]) -> list[Tensor]:
    """Runs `rows`, which stand in batch order (rows of one adapter side by side, see `batch_order`).

    For each row: logits (labels,) of a sequence head, (tokens, labels) of a token head, (vocabulary,) for the next
    token where it `continues`, (masks, vocabulary) where it has `masks`, or without a head the pooled state (width,),
    projected where the adapter or else the backbone says so, or, pooling `none`, all states (tokens, width). Virtual
    tokens are left out, but that a head which reads the first
    state reads theirs.
    """
    if backbone.family.packed:
        return _one_pass(backbone, rows)
    outputs: dict[int, Tensor] = {}
    for group in passes(backbone, [len(row.ids) + row.adapter.virtual_tokens for row in rows]):
        outputs |= zip(group, _one_pass(backbone, [rows[i] for i in group]), strict=True)
    return [outputs[i] for i in range(len(rows))]


def passes(backbone: Backbone, lengths: Sequence[int]) -> list[list[int]]:
    """Which sequences of `lengths` tokens, virtual ones included, share a pass where the model runs padded; in each
    their order stays.

    Of equal length alone where pads may change the answer; else of similar length, so that one long row among many
    short ones does not make all of them long.
    """
    lengths = [padded_length(backbone, length) for length in lengths]
    apart = backbone.family.multiple_of is not None
    groups: list[list[int]] = []
    most = -1
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if lengths[i] > most:
            groups.append([])
            most = lengths[i] if apart else int(lengths[i] * _PAD_GROWTH) + _PAD_SLACK
        groups[-1].append(i)
    return [sorted(group) for group in groups]


def _one_pass(backbone: Backbone, rows: Sequence[Row]) -> list[Tensor]:
    plan = Plan(segments_of([row.adapter for row in rows]))
    batch = pack_chunks(backbone, None, [whole_chunk(row, plan, i) for i, row in enumerate(rows)])
    states = backbone.encode(batch, plan.token_actors(batch))
    outputs = read_out(backbone, plan, batch, states, rows)
    return [output for output in outputs if output is not None]


def whole_chunk(row: Row, plan: Plan, index: int) -> SequenceChunk:
    """A whole sequence for a pass, of whose plan it is the sequence `index`."""
    return SequenceChunk(
        row.ids,
        virtual=plan.virtual[index],
        position_offset=plan.shifts[index],
        left_out=plan.left_out[index],
        batch_prefix=plan.prefixes[index],
        type_ids=row.type_ids,
    )


def read_out(
    backbone: Backbone, plan: Plan, batch: PackedBatch, states: Tensor, rows: Sequence[Row | None]
) -> list[Tensor | None]:
    """What each sequence of a pass asks of its last states, as `forward` gives it; None for those that ask nothing.

    `states`: (tokens of the pass, hidden). `rows`: by sequence of the plan.
    """
    spans = batch.spans(slice(0, len(rows)))
    outputs: list[Tensor | None] = [None] * len(rows)
    asked: list[list[int]] = []
    for row, span in zip(rows, spans, strict=True):
        if row is None:
            asked.append([])
            continue
        own = [span.start + row.adapter.virtual_tokens + place for place in row.masks]
        asked.append([span.stop - 1] if row.continues else own)
    logits = vocabulary_logits(backbone, plan, states, asked)
    if logits is not None:
        asking = [i for i, places in enumerate(asked) if places]
        for i, one in zip(asking, torch.split(logits, [len(asked[i]) for i in asking]), strict=True):
            row = rows[i]
            outputs[i] = one[0] if row is not None and row.continues else one
    left = [i for i, row in enumerate(rows) if row is not None and outputs[i] is None]
    if left:
        _read_states(backbone, plan, states, spans, rows, outputs)
    return outputs


def _read_states(
    backbone: Backbone,
    plan: Plan,
    states: Tensor,
    spans: Sequence[slice],
    rows: Sequence[Row | None],
    outputs: list[Tensor | None],
) -> None:
    """Heads and pooling, by segment; into the places of `outputs` that are None."""
    first = states[torch.tensor([span.start for span in spans], device=states.device)]
    pooled: Tensor | None = None
    if any(s.adapter.head is not None and s.adapter.head.reads == "pooler" for s in plan.segments):
        pooled = backbone.pool(first, plan.sequence_actors())

    for segment in plan.segments:
        head = segment.adapter.head
        virtual = segment.adapter.virtual_tokens
        sequences = range(segment.sequences.start, segment.sequences.stop)
        asking = {i: row for i in sequences if outputs[i] is None and (row := rows[i]) is not None}
        own = list(asking)
        real = {i: slice(spans[i].start + virtual, spans[i].stop) for i in own}
        if not own:
            continue
        if head is None:
            projection = segment.adapter.projection or backbone.sentence_embedding.projection
            for i, row in asking.items():
                vector = pool(states[real[i]], row.pooling, row.skip)
                outputs[i] = vector if row.pooling == EVERY_TOKEN else projection(vector[None])[0]
        elif head.reads == "tokens":
            logits = head(torch.cat([states[real[i]] for i in own]))
            lengths = [real[i].stop - real[i].start for i in own]
            for i, one in zip(own, torch.split(logits, lengths), strict=True):
                outputs[i] = one
        else:
            match head.reads:
                case "first":
                    source = first[own]
                case "last":
                    source = states[[real[i].stop - 1 for i in own]]
                case _:
                    assert pooled is not None
                    source = pooled[own]
            for i, one in zip(own, head(source).unbind(0), strict=True):
                outputs[i] = one


def vocabulary_logits(
    backbone: Backbone, plan: Plan, states: Tensor, positions: Sequence[Sequence[int]]
) -> Tensor | None:
    """The language-model head on some rows of `states`; None where there are none.

    `positions`: for each sequence of the plan its rows that are asked. Returns (all positions, vocabulary), in order.
    """
    segments, rows = asked_segments(plan, positions)
    if not rows:
        return None
    return backbone.vocabulary_logits(states[rows], vocabulary_actors(backbone, plan, segments))


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
