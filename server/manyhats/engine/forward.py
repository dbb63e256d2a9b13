"""One forward pass over a packed batch, heads included. Serving and training both run exactly this."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manyhats.backbone import Backbone, SequenceChunk, pack_chunks, padded_length
from manyhats.engine.read_out import ReadOut
from manyhats.engine.row import Row
from manyhats.methods.plan import Plan, segments_of

# A padded pass takes rows up to this much longer than its shortest: a trade between pads and the number of passes.
_PAD_GROWTH = 1.5
_PAD_SLACK = 16


def forward(backbone: Backbone, rows: Sequence[Row]) -> list[Tensor]:
    """Runs `rows`, which stand in batch order (see `methods.plan.in_batch_order`).

    For each row: logits (labels,) of a sequence head, (tokens, labels) of a token head, (vocabulary,) for the next
    token where it `continues`, (masks, vocabulary) where it has `masks`, or without a head the pooled state (width,),
    projected where the adapter or else the backbone says so, or, pooling `none`, all states (tokens, width). Virtual
    tokens are left out, but that a head which reads the first state reads theirs.
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
    plan = Plan(backbone, segments_of([row.adapter for row in rows]))
    staging = backbone.staging()
    batch = pack_chunks(backbone, None, [whole_chunk(row, plan, i) for i, row in enumerate(rows)], staging)
    read_out = ReadOut(backbone, plan, batch, rows, staging)
    staging.commit()
    outputs = read_out(backbone.encode(batch, plan.token_actors(batch)))
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
