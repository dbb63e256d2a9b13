"""The input of `engine.forward.forward`: one whole sequence and the output that is wanted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manyhats.backbone.sentence import Pooling
from manyhats.methods.bound_adapter import BoundAdapter


@dataclass(frozen=True, slots=True)
class ForwardInput:
    """Token ids of one sequence, and the adapter that processes it.

    `pooling` (for adapters without a head): how the last hidden states become one vector (see `backbone.sentence`), or
    `none`. `skip`: how many tokens at the beginning are left out of pooling.
    `next_token`: return the language-model head's logits at the last token instead. `mask_positions`: return these
    logits at these tokens instead, counted from the first real token.
    """

    ids: Sequence[int]
    type_ids: Sequence[int]
    adapter: BoundAdapter
    pooling: Pooling = "mean"
    next_token: bool = False
    mask_positions: tuple[int, ...] = ()
    skip: int = 0
