"""Lays sequences side by side, for a pass over whole ones or over what is new of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone.attention import AttentionLayout, Layout
from manyhats.backbone.cache import CachedLayout, KeyValueCache

if TYPE_CHECKING:
    from manyhats.backbone.model import Backbone


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """All tokens of some sequences side by side, with no padding. T tokens, S sequences.

    A sequence's virtual tokens, whose vectors an adapter brings, stand before its own.
    """

    input_ids: Tensor  # (T,); any index at virtual tokens
    type_ids: Tensor | None  # (T,)
    position_ids: Tensor  # (T,)
    starts: tuple[int, ...]  # (S + 1,) first row of each sequence, and T
    lengths: tuple[int, ...]  # (S,) rows of each sequence; pads may follow
    layout: Layout | None  # None where the model runs padded

    @property
    def padded(self) -> int | None:
        """Rows of each sequence, pads included, where the model runs padded."""
        return None if self.layout is not None else self.starts[1]

    def rows(self, sequences: slice) -> slice:
        """The rows of consecutive sequences."""
        return slice(self.starts[sequences.start], self.starts[sequences.stop])

    def spans(self, sequences: slice) -> tuple[slice, ...]:
        """The rows of each of some consecutive sequences, without pads."""
        return tuple(
            slice(self.starts[i], self.starts[i] + self.lengths[i]) for i in range(sequences.start, sequences.stop)
        )


class Piece(NamedTuple):
    """What is new of one sequence. `ids`: its next tokens; `start`: how many of its tokens stand before them.

    `virtual`: virtual tokens that come with its first ones; `shift`: how far its tokens' positions are moved on;
    `rows`: of the cache, all that it sees in order, its new tokens' own (and virtual ones') being the last. The first
    `prefix` of them are a prefix', which the layers `left_out` do not see.
    """

    ids: Sequence[int]
    start: int
    virtual: int
    shift: int
    rows: NDArray[np.int64]
    prefix: int = 0
    left_out: frozenset[int] = frozenset()


def pack_pieces(backbone: Backbone, cache: KeyValueCache, pieces: Sequence[Piece]) -> PackedBatch:
    """A pass over new tokens alone, whose keys and values go into the cache beside the earlier ones'."""
    lengths = [len(piece.ids) + piece.virtual for piece in pieces]
    starts = [0]
    ids: list[int] = []
    positions: list[int] = []
    origin = backbone.family.first_position(backbone.config)
    for piece, length in zip(pieces, lengths, strict=True):
        starts.append(starts[-1] + length)
        ids += [piece.ids[0]] * piece.virtual
        ids += piece.ids
        first = origin + piece.shift + piece.start
        positions += range(origin, origin + piece.virtual)
        positions += range(first, first + len(piece.ids))
    return PackedBatch(
        input_ids=torch.tensor(ids, dtype=torch.long, device=backbone.device),
        type_ids=None,
        position_ids=torch.tensor(positions, dtype=torch.long, device=backbone.device),
        starts=tuple(starts),
        lengths=tuple(lengths),
        layout=CachedLayout(
            cache,
            lengths,
            [piece.rows for piece in pieces],
            prefixes=[piece.prefix for piece in pieces],
            left_out=[piece.left_out for piece in pieces],
        ),
    )


def pack(
    backbone: Backbone,
    sequences: Sequence[Sequence[int]],
    type_ids: Sequence[Sequence[int]],
    *,
    prefixes: Sequence[tuple[int, int]] | None = None,
    left_out: Sequence[frozenset[int]] | None = None,
    shifts: Sequence[int] | None = None,
    virtual: Sequence[int] | None = None,
) -> PackedBatch:
    """Lays sequences side by side.

    By sequence: `prefixes`, the rows among the batch's prefix rows that it attends to besides its own, and `left_out`,
    the layers at which it does not (see `AttentionLayout`); `shifts`, how far its tokens' positions are moved on;
    `virtual`, the number of virtual tokens before its own, whose positions start where an unmoved sequence's do.
    """
    none = [0] * len(sequences)
    shifts, virtual = shifts or none, virtual or none
    lengths = [len(s) + v for s, v in zip(sequences, virtual, strict=True)]
    width = None if backbone.family.packed else max(run_length(backbone, length) for length in lengths)
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + (width or length))
    first = backbone.family.first_position(backbone.config)
    positions: list[int] = []
    ids: list[int] = []
    types: list[int] = []
    highest = backbone.config.type_vocab_size - 1 if backbone.family.token_types else 0  # RoBERTa has one type
    for i, (sequence, shift, v) in enumerate(zip(sequences, shifts, virtual, strict=True)):
        pads = (width or lengths[i]) - lengths[i]
        positions += range(first, first + v)
        positions += range(first + shift, first + shift + len(sequence))
        positions += [first] * pads
        ids += [sequence[0]] * v
        ids += sequence
        ids += [backbone.config.pad_token_id or 0] * pads
        if backbone.family.token_types:
            types += [0] * v
            types += [min(t, highest) for t in type_ids[i]]
    return PackedBatch(
        input_ids=torch.tensor(ids, dtype=torch.long, device=backbone.device),
        type_ids=torch.tensor(types, dtype=torch.long, device=backbone.device) if backbone.family.token_types else None,
        position_ids=torch.tensor(positions, dtype=torch.long, device=backbone.device),
        starts=tuple(starts),
        lengths=tuple(lengths),
        layout=AttentionLayout(
            lengths,
            prefixes or [(0, 0)] * len(lengths),
            left_out=left_out,
            causal=backbone.family.causal,
            device=backbone.device,
            dtype=backbone.dtype,
        )
        if backbone.family.packed
        else None,
    )


def run_length(backbone: Backbone, length: int) -> int:
    """The length that a sequence is brought to where the model runs padded."""
    grow = backbone.family.multiple_of
    return length if grow is None else grow(backbone.config, length)
