"""Lets the adapters of a packed batch act, each on its own segment's rows.

A plan turns "segment i belongs to adapter a" into the backbone's actors: for every site one callable that runs the
shared layer once and gives each method all of its segments together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.sites import Actors
from manyhats.methods.adapter import BoundAdapter
from manyhats.methods.base import Act, Method, Norm


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of consecutive sequences of a batch that belong to one adapter."""

    adapter: BoundAdapter
    sequences: slice


def batch_order(adapter: BoundAdapter) -> int:
    """Segments sort by this: those with weights of their own stand last, so that the shared layer runs once."""
    return 1 if adapter.own_weight else 0


class Plan:
    """The actors for one batch. `segments` cover its sequences in order."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self.prefixes: list[tuple[int, int]] = []  # by sequence: rows among the batch's prefix rows
        self.shifts: list[int] = []  # by sequence: how far its positions move on
        row = 0
        for segment in segments:
            count = segment.sequences.stop - segment.sequences.start
            rows = segment.adapter.prefix_rows
            self.prefixes += [(row, row + rows)] * count
            self.shifts += [segment.adapter.position_shift] * count
            row += rows

    def token_actors(self, starts: Sequence[int]) -> Actors:
        """For a pass over all tokens. `starts`: first token of each sequence, and the number of tokens."""
        return self._actors([slice(starts[s.sequences.start], starts[s.sequences.stop]) for s in self.segments])

    def sequence_actors(self) -> Actors:
        """For a pass over one row per sequence (the pooler)."""
        return self._actors([s.sequences for s in self.segments])

    def _actors(self, rows_of: Sequence[slice]) -> Actors:
        linear: dict[str, _LinearActor] = {}
        residual: dict[str, _ResidualActor] = {}
        key_value: dict[int, _KeyValueActor] = {}
        for segment, rows in zip(self.segments, rows_of, strict=True):
            for method, bound in segment.adapter.parts:
                for site, weights in bound.linear.items():
                    linear.setdefault(site, _LinearActor()).add(method, Act(rows, weights))
                for site, weights in bound.residual.items():
                    residual.setdefault(site, _ResidualActor()).add(method, Act(rows, weights))
                for layer, pair in bound.key_value.items():
                    key_value.setdefault(layer, _KeyValueActor()).add(pair)
        return Actors(linear=linear, residual=residual, key_value=key_value)


class _LinearActor:
    """Runs the shared layer on the rows that use it, then lets the methods act on theirs."""

    def __init__(self) -> None:
        self._own: list[tuple[Method, Act]] = []  # in batch order
        self._after: dict[Method, list[Act]] = {}

    def add(self, method: Method, act: Act) -> None:
        if method.own_weight:
            self._own.append((method, act))
        else:
            self._after.setdefault(method, []).append(act)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = self._with_own_weights(x, weight, bias) if self._own else F.linear(x, weight, bias)
        for method, acts in self._after.items():
            method.after_linear(x, y, acts)
        return y

    def _with_own_weights(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pieces: list[tuple[slice, Tensor]] = []
        done = 0
        for method, (rows, own) in self._own:
            if done < rows.start:
                pieces.append((slice(done, rows.start), weight))
            if pieces and pieces[-1][0] == rows:  # a second method with its own weights on the same rows
                pieces[-1] = (rows, method.weight(pieces[-1][1], own))
            else:
                pieces.append((rows, method.weight(weight, own)))
            done = rows.stop
        if done < len(x):
            pieces.append((slice(done, len(x)), weight))
        if torch.is_grad_enabled() or bias is None:
            return torch.cat([F.linear(x[rows], w, bias) for rows, w in pieces])
        y = x.new_empty(len(x), weight.shape[0])
        for rows, w in pieces:
            torch.addmm(bias, x[rows], w.T, out=y[rows])
        return y


class _ResidualActor:
    """Joins all rows as the backbone does, then replaces the rows of the segments where a method acts."""

    def __init__(self) -> None:
        self._acts: list[tuple[Method, Act]] = []  # in batch order

    def add(self, method: Method, act: Act) -> None:
        self._acts.append((method, act))

    def __call__(self, f: Tensor, x: Tensor, norm: Norm) -> Tensor:
        out = norm(f + x)
        pieces: list[Tensor] = []
        done = 0
        in_place = not torch.is_grad_enabled()
        for method, (rows, weights) in self._acts:
            new = method.join(f[rows], x[rows], out[rows], norm, weights)
            if in_place:
                out[rows] = new
            else:  # the old rows are needed for the gradient
                pieces += [out[done : rows.start], new]
                done = rows.stop
        return out if in_place else torch.cat([*pieces, out[done:]])


class _KeyValueActor:
    """Puts the prefixes of all segments behind the tokens' keys and values."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor]] = []

    def add(self, pair: tuple[Tensor, Tensor]) -> None:
        self._rows.append(pair)

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.cat([keys, *(k for k, _ in self._rows)]),
            torch.cat([values, *(v for _, v in self._rows)]),
        )


def segments_of(adapters: Sequence[BoundAdapter]) -> list[Segment]:
    """Segments for sequences that are already in batch order. `adapters`: one for each sequence."""
    segments: list[Segment] = []
    start = 0
    for i in range(1, len(adapters) + 1):
        if i == len(adapters) or adapters[i] is not adapters[start]:
            segments.append(Segment(adapters[start], slice(start, i)))
            start = i
    return segments
