"""A sequence of pads beside those of a pass, so that passes have few different numbers of rows.

On a CPU oneDNN compiles a product of matrices for each number of rows and keeps few (`engine.product_caches`), while
passes have any number of tokens. Compiling takes longer than the rows up to the next number, as tiles of rows are
computed whole. What is dropped again also leaves the heap in pieces in which the next one has no place, so that memory
grows for as long as passes go on.
"""

from __future__ import annotations

from manyhats.backbone.chunks import SequenceChunk

_STEPS = ((64, 8), (256, 16), (512, 32))  # up to so many rows, in steps of so many
_STEP = 64  # beyond


def missing_rows(rows: int) -> int:
    """How many rows are missing up to the next number that passes have."""
    step = next((step for most, step in _STEPS if rows <= most), _STEP)
    return -rows % step


def filler(rows: int, pad: int | None, max_tokens: int) -> list[SequenceChunk]:
    """The chunks to put behind those of a pass of `rows` rows: one, or none. `pad`: the token of it; None: any."""
    missing = missing_rows(rows)
    return [SequenceChunk([pad or 0] * missing)] if 0 < missing <= max_tokens else []
