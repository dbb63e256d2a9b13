"""What one whole sequence asks of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manyhats.backbone.sentence import Pooling
from manyhats.methods.bound_adapter import BoundAdapter


@dataclass(frozen=True, slots=True)
class Row:
    """Its tokens, and the adapter that it belongs to.

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
