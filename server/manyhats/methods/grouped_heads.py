"""Computes the heads of all tasks of a batch together, with one call for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manyhats.backbone.staging import StagingBuffer
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


class GroupedHeads:
    """The heads of all tasks of a batch. `rows`: in rising order; `staging`: where what the kernels need on the device
    is put, which must be committed before a call."""

    def __init__(
        self, tables: SlotTables, rows: Sequence[HeadRows], staging: StagingBuffer, device: torch.device
    ) -> None:
        self._tables = tables
        self._rows = rows
        self._widest = max(_head(own).num_labels for own in rows)
        by_steps: dict[tuple[tuple[int, str | None], ...], list[Segment]] = {}
        for own in rows:
            layers = _head(own).layers
            inner = tuple((len(layer.weight), layer.activation) for layer in layers[:-1])
            steps = (*inner, (0, layers[-1].activation))  # the last may differ in width
            by_steps.setdefault(steps, []).append(Segment(own.start, own.stop, tables.slot_of(own.adapter)))
        self._groups = [(steps, Segments(own)) for steps, own in by_steps.items()]
        stage = tables.kernels.stage
        if stage is not None:
            own_tables = [tables.head_table(i) for i in range(max(len(steps) for steps, _ in self._groups))]
            stage([segments for _, segments in self._groups], own_tables, staging, device)

    def __call__(self, states: Tensor) -> Tensor:
        """The logits of all heads: (rows, width) to (rows, maximum number of labels). A row is valid up to its head's
        number of labels."""
        with_dropout = [own for own in self._rows if type(own.adapter.head) is not Head]
        if with_dropout:
            chunks = [
                (slice(own.start, own.stop), _head(own).read(states[own.start : own.stop])) for own in with_dropout
            ]
            states = put_rows(states, chunks)
        logits = states.new_empty(len(states), self._widest)
        for steps, segments in self._groups:
            hidden = states
            for i, (width, name) in enumerate(steps):
                last = i == len(steps) - 1
                out = logits if last else states.new_empty(len(states), width)
                self._tables.kernels.linear(hidden, out, self._tables.head_table(i), segments)
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
