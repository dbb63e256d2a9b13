"""One forward pass over a packed batch, heads included. Serving and training both run exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyhats.backbone import Backbone, pack, run_length
from manyhats.backbone.sentence import EVERY_TOKEN, Pooling, pool
from manyhats.methods.adapter import BoundAdapter
from manyhats.methods.plan import Plan, Segment, segments_of

# A padded pass takes rows up to this much longer than its shortest: a trade between pads and the number of passes.
_PAD_GROWTH = 1.5
_PAD_SLACK = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of a batch: its tokens and the adapter that it belongs to.

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
    for group in _passes(backbone, rows):
        outputs |= zip(group, _one_pass(backbone, [rows[i] for i in group]), strict=True)
    return [outputs[i] for i in range(len(rows))]


def _passes(backbone: Backbone, rows: Sequence[Row]) -> list[list[int]]:
    """Which rows share a pass where the model runs padded; in each the rows' order stays.

    Of equal length alone where pads may change the answer; else of similar length, so that one long row among many
    short ones does not make all of them long.
    """
    lengths = [run_length(backbone, len(row.ids) + row.adapter.virtual_tokens) for row in rows]
    apart = backbone.family.multiple_of is not None
    groups: list[list[int]] = []
    most = -1
    for i in sorted(range(len(rows)), key=lengths.__getitem__):
        if lengths[i] > most:
            groups.append([])
            most = lengths[i] if apart else int(lengths[i] * _PAD_GROWTH) + _PAD_SLACK
        groups[-1].append(i)
    return [sorted(group) for group in groups]


def _one_pass(backbone: Backbone, rows: Sequence[Row]) -> list[Tensor]:
    plan = Plan(backbone, segments_of([row.adapter for row in rows]))
    batch = pack(
        backbone,
        [row.ids for row in rows],
        [row.type_ids for row in rows],
        prefixes=plan.prefixes,
        left_out=plan.left_out,
        shifts=plan.shifts,
        virtual=plan.virtual,
    )
    states = backbone.encode(batch, plan.token_actors(batch))
    spans = batch.spans(slice(0, len(rows)))
    outputs: list[Tensor | None] = [None] * len(rows)
    asked: list[list[int]] = []
    for row, span in zip(rows, spans, strict=True):
        own = [span.start + row.adapter.virtual_tokens + place for place in row.masks]
        asked.append([span.stop - 1] if row.continues else own)
    logits = vocabulary_logits(backbone, plan, states, asked)
    if logits is not None:
        asking = [i for i, places in enumerate(asked) if places]
        for i, one in zip(asking, torch.split(logits, [len(asked[i]) for i in asking]), strict=True):
            outputs[i] = one[0] if rows[i].continues else one
    first = states[torch.tensor([span.start for span in spans], device=states.device)]
    pooled: Tensor | None = None
    if any(s.adapter.head is not None and s.adapter.head.reads == "pooler" for s in plan.segments):
        pooled = backbone.pool(first, plan.sequence_actors())

    for segment in plan.segments:
        head = segment.adapter.head
        virtual = segment.adapter.virtual_tokens
        own = [i for i in range(segment.sequences.start, segment.sequences.stop) if outputs[i] is None]
        real = {i: slice(spans[i].start + virtual, spans[i].stop) for i in own}
        if not own:
            continue
        if head is None:
            projection = segment.adapter.projection or backbone.sentence_embedding.projection
            for i in own:
                vector = pool(states[real[i]], rows[i].pooling, rows[i].skip)
                outputs[i] = vector if rows[i].pooling == EVERY_TOKEN else projection(vector[None])[0]
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
    return [output for output in outputs if output is not None]


def vocabulary_logits(backbone: Backbone, plan: Plan, states: Tensor, places: Sequence[Sequence[int]]) -> Tensor | None:
    """The language-model head on some rows of `states`; None where there are none.

    `places`: for each sequence of the plan its rows that are asked. Returns (all places, vocabulary), in order.
    """
    chosen: list[int] = []
    segments: list[Segment] = []
    for segment in plan.segments:
        own = [place for i in range(segment.sequences.start, segment.sequences.stop) for place in places[i]]
        if own:
            segments.append(Segment(segment.adapter, slice(len(chosen), len(chosen) + len(own))))
            chosen += own
    if not chosen:
        return None
    head = backbone.vocabulary
    actors = plan.sequence_actors(segments, frozenset() if head is None else head.parts)
    return backbone.vocabulary_logits(states[chosen], actors)
