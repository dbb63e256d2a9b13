"""Packs sequences for one pass: whole ones, and the new tokens of cached ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING

import numpy as np

from manyhats.backbone.cache import KeyValueCache
from manyhats.backbone.chunks import SequenceChunk
from manyhats.backbone.packed_batch import PackedBatch
from manyhats.backbone.staging import StagingBuffer
from manyhats.backbone.varlen_layout import attention_layout

if TYPE_CHECKING:
    from manyhats.backbone.model import Backbone


def pack_chunks(
    backbone: Backbone,
    cache: KeyValueCache | None,
    chunks: Sequence[SequenceChunk],
    staging: StagingBuffer | None = None,
) -> PackedBatch:
    """One pass over whole sequences and over new tokens of cached ones, in any order.

    `staging`: to which the caller may add more arrays before committing it; without one the batch is on the device at
    once. Raises ValueError for a chunk that does not fit the pass.
    """
    family, config = backbone.family, backbone.config
    _check(chunks, cache, packed=family.packed)
    batch = backbone.staging() if staging is None else staging
    own = np.array([len(chunk.ids) for chunk in chunks])
    virtual = np.array([chunk.virtual for chunk in chunks])
    lengths = own + virtual
    width = None if family.packed else max(padded_length(backbone, int(length)) for length in lengths)
    rows = lengths if width is None else np.full(len(chunks), width)
    starts = np.cumsum(rows) - rows
    total = int(rows.sum())

    index = np.arange(total) - np.repeat(starts, rows)
    offsets = np.array([chunk.position_offset + chunk.start - chunk.virtual for chunk in chunks])
    is_token = index >= np.repeat(virtual, rows)
    # Virtual tokens' positions start where those of a sequence without an offset do.
    positions = index + np.where(is_token, np.repeat(offsets, rows), 0)
    is_pad = index >= np.repeat(lengths, rows)
    positions[is_pad] = 0
    batch.put("position_ids", positions + family.first_position(config))
    pads = rows - lengths
    pad = config.pad_token_id or 0
    ids = chain.from_iterable(
        chain(repeat(chunk.ids[0], chunk.virtual), chunk.ids, repeat(pad, count))
        for chunk, count in zip(chunks, pads.tolist(), strict=True)
    )
    batch.put("input_ids", np.fromiter(ids, dtype=np.int64, count=total))
    if family.token_types:
        types = chain.from_iterable(
            chain(repeat(0, chunk.virtual), chunk.type_ids if len(chunk.type_ids) else repeat(0, len(chunk.ids)))
            for chunk in chunks
        )
        highest = config.type_vocab_size - 1  # RoBERTa has one type
        batch.put("type_ids", np.minimum(np.fromiter(types, dtype=np.int64, count=total), highest))
    layout = None
    if family.packed:
        layout = attention_layout(
            chunks,
            batch,
            causal=family.causal,
            device=backbone.device,
            dtype=backbone.dtype,
            cache=cache,
            varlen=backbone.varlen_attention,
        )
    else:
        batch.put("lengths", lengths)
    if staging is None:
        batch.commit()
    return PackedBatch((*starts.tolist(), total), tuple(lengths.tolist()), layout, batch)


def _check(chunks: Sequence[SequenceChunk], cache: KeyValueCache | None, *, packed: bool) -> None:
    for chunk in chunks:
        if not len(chunk.ids):
            raise ValueError(f"a chunk has no tokens, with {chunk.virtual} virtual ones before them")
        if len(chunk.type_ids) not in (0, len(chunk.ids)):
            raise ValueError(f"a chunk of {len(chunk.ids)} tokens has the types of {len(chunk.type_ids)}")
        if chunk.cache_rows is None:
            if chunk.cached_prefix:
                raise ValueError(f"a whole sequence has a prefix of {chunk.cached_prefix} rows in the cache")
            continue
        if cache is None or not packed:
            raise ValueError("a chunk has rows of the cache, but the pass has none")
        if chunk.batch_prefix[0] < chunk.batch_prefix[1]:
            raise ValueError(f"a cached chunk has a prefix in the batch, the rows {chunk.batch_prefix}")
        if len(chunk.cache_rows) < chunk.cached_prefix + chunk.length:
            raise ValueError(
                f"a chunk of {chunk.length} rows with a prefix of {chunk.cached_prefix} sees only "
                f"{len(chunk.cache_rows)} rows of the cache"
            )


def pack(
    backbone: Backbone,
    sequences: Sequence[Sequence[int]],
    type_ids: Sequence[Sequence[int]],
    staging: StagingBuffer | None = None,
) -> PackedBatch:
    """A pass over whole sequences. `staging`: see `pack_chunks`."""
    chunks = [SequenceChunk(ids, type_ids=types) for ids, types in zip(sequences, type_ids, strict=True)]
    return pack_chunks(backbone, None, chunks, staging)


def padded_length(backbone: Backbone, length: int) -> int:
    """The length to which a sequence is padded where the model runs padded."""
    grow = backbone.family.multiple_of
    return length if grow is None else grow(backbone.config, length)
