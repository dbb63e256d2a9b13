"""One forward pass over a packed batch, heads included. Serving and training share this code."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manyhats.backbone import Backbone, SequenceChunk, pack_chunks, padded_length
from manyhats.engine.forward_input import ForwardInput
from manyhats.engine.read_out import ReadOut
from manyhats.methods.plan import Plan, segments_of

# A padded pass takes sequences up to this much longer than its shortest one: a compromise between computing on padding
# and running many passes.
_PAD_GROWTH = 1.5
_PAD_SLACK = 16


def forward(backbone: Backbone, inputs: Sequence[ForwardInput]) -> list[Tensor]:
    """Runs sequences that are sorted in batch order (see `methods.plan.in_batch_order`). Returns one tensor for each.

    A sequence head gives logits (labels,), a token head (tokens, labels). With `next_token` the output is
    (vocabulary,), with `mask_positions` (masks, vocabulary). Without a head it is the pooled state (width,), projected
    by the adapter's projection or else the backbone's; with pooling `none` it is all states (tokens, width). Virtual
    tokens are left out of the outputs, but a head that reads the first state reads the first virtual token's.
    """
    if backbone.family.packed:
        return _one_pass(backbone, inputs)
    outputs: dict[int, Tensor] = {}
    for group in padded_groups(backbone, [len(one.ids) + one.adapter.virtual_tokens for one in inputs]):
        outputs |= zip(group, _one_pass(backbone, [inputs[i] for i in group]), strict=True)
    return [outputs[i] for i in range(len(inputs))]


def padded_groups(backbone: Backbone, lengths: Sequence[int]) -> list[list[int]]:
    """Divides sequences into passes for a model that runs padded. Returns indices, in rising order in each group.

    `lengths`: tokens of each sequence, virtual ones included. Where padding may change the answer, only sequences of
    equal padded length share a pass; else sequences of similar length do, so that one long sequence among many short
    ones does not pad all of them.
    """
    lengths = [padded_length(backbone, length) for length in lengths]
    equal_only = backbone.family.multiple_of is not None
    groups: list[list[int]] = []
    longest_allowed = -1
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if lengths[i] > longest_allowed:
            groups.append([])
            longest_allowed = lengths[i] if equal_only else int(lengths[i] * _PAD_GROWTH) + _PAD_SLACK
        groups[-1].append(i)
    return [sorted(group) for group in groups]


def _one_pass(backbone: Backbone, inputs: Sequence[ForwardInput]) -> list[Tensor]:
    plan = Plan(backbone, segments_of([one.adapter for one in inputs]))
    staging = backbone.staging()
    batch = pack_chunks(backbone, None, [whole_chunk(one, plan, i) for i, one in enumerate(inputs)], staging)
    read_out = ReadOut(backbone, plan, batch, inputs, staging)
    actors = plan.token_actors(batch)
    staging.commit()
    outputs = read_out(backbone.encode(batch, actors))
    return [output for output in outputs if output is not None]


def whole_chunk(sequence_input: ForwardInput, plan: Plan, index: int) -> SequenceChunk:
    """The chunk that holds a whole sequence. `index`: its position among the sequences of `plan`."""
    return SequenceChunk(
        sequence_input.ids,
        virtual=plan.virtual[index],
        position_offset=plan.position_offsets[index],
        left_out=plan.left_out[index],
        batch_prefix=plan.prefixes[index],
        type_ids=sequence_input.type_ids,
    )
