"""Computes the heads of all tasks of a batch together, with one call for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manyhats.kernels.activations import activation
from manyhats.kernels.segments import Segment, Segments
from manyhats.methods.base import put_rows
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.heads import Head
from manyhats.methods.slots import SlotTables


class HeadRows(NamedTuple):
    """The rows `start` to `stop` of the heads' input, which belong to one adapter with a head."""

    adapter: BoundAdapter
    start: int
    stop: int


def head_logits(tables: SlotTables, states: Tensor, rows: Sequence[HeadRows]) -> Tensor:
    """The logits of all heads: (rows, width) to (rows, maximum number of labels). A row is valid up to its head's
    number of labels.

    `rows`: in rising order.
    """
    with_dropout = [own for own in rows if type(own.adapter.head) is not Head]
    if with_dropout:
        chunks = [(slice(own.start, own.stop), _head(own).read(states[own.start : own.stop])) for own in with_dropout]
        states = put_rows(states, chunks)
    widest = max(_head(own).num_labels for own in rows)
    logits = states.new_empty(len(states), widest)
    groups: dict[tuple[tuple[int, str | None], ...], list[HeadRows]] = {}
    for own in rows:
        layers = _head(own).layers
        inner = tuple((len(layer.weight), layer.activation) for layer in layers[:-1])
        groups.setdefault((*inner, (0, layers[-1].activation)), []).append(own)  # the last may differ in width
    for steps, own_rows in groups.items():
        slots = [Segment(own.start, own.stop, tables.slot_of(own.adapter)) for own in own_rows]
        segments = Segments(slots)
        hidden = states
        for i, (width, name) in enumerate(steps):
            last = i == len(steps) - 1
            out = logits if last else states.new_empty(len(states), width)
            tables.kernels.linear(hidden, out, tables.head_table(i), segments)
            if name is not None:
                out = _apply_activation(out, segments.runs, name)
                if last:
                    logits = out
            hidden = out
    return logits


def _head(own: HeadRows) -> Head:
    head = own.adapter.head
    assert head is not None, "the adapter has no head"
    return head


def _apply_activation(y: Tensor, runs: Sequence[slice], name: str) -> Tensor:
    """`y` with an activation applied to some runs of rows."""
    chunks = [activation(name)(y[run]) for run in runs]
    if len(chunks) == 1 and len(chunks[0]) == len(y):
        return chunks[0]
    out = torch.empty_like(y)
    out.copy_(y)
    for run, chunk in zip(runs, chunks, strict=True):
        out[run] = chunk
    return out
