"""One forward pass over a packed batch, heads included. Serving and training both run exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyhats.backbone import Backbone
from manyhats.methods.adapter import BoundAdapter
from manyhats.methods.plan import Plan, segments_of


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of a batch: its tokens and the adapter that it belongs to.

    `pooling` (for adapters without a head): `mean` or `cls` or `last` over the last hidden states, or `none`.
    """

    ids: Sequence[int]
    type_ids: Sequence[int]
    adapter: BoundAdapter
    pooling: str = "mean"


def forward(backbone: Backbone, rows: Sequence[Row]) -> list[Tensor]:
    """Runs `rows`, which stand in batch order (rows of one adapter side by side, see `batch_order`).

    For each row: logits (labels,) of a sequence head, (tokens, labels) of a token head, or without a head the pooled
    state (hidden,) or, pooling `none`, all states (tokens, hidden).
    """
    plan = Plan(segments_of([row.adapter for row in rows]))
    batch = backbone.pack(
        [row.ids for row in rows],
        [row.type_ids for row in rows],
        prefixes=plan.prefixes,
        shifts=plan.shifts,
    )
    states = backbone.encode(batch, plan.token_actors(batch.starts))
    starts = batch.starts
    first = states[torch.tensor(starts[:-1], device=states.device)]
    pooled: Tensor | None = None
    if any(s.adapter.head is not None and s.adapter.head.reads == "pooler" for s in plan.segments):
        pooled = backbone.pool(first, plan.sequence_actors())

    outputs: list[Tensor] = []
    for segment in plan.segments:
        head = segment.adapter.head
        span = range(segment.sequences.start, segment.sequences.stop)
        if head is None:
            outputs += [_pool(states[starts[i] : starts[i + 1]], rows[i].pooling) for i in span]
        elif head.reads == "tokens":
            logits = head(states[starts[span.start] : starts[span.stop]])
            outputs += torch.split(logits, [starts[i + 1] - starts[i] for i in span])
        else:
            source = first if head.reads == "first" else pooled
            assert source is not None
            outputs += head(source[segment.sequences]).unbind(0)
    return outputs


def _pool(states: Tensor, pooling: str) -> Tensor:
    """(tokens, hidden) to (hidden,), or unchanged for `none`."""
    match pooling:
        case "mean":
            return states.mean(0)
        case "cls":
            return states[0]
        case "last":
            return states[-1]
        case _:
            return states
