"""A step of texts whose adapters look at a text as a whole: nothing of it can be kept for the next step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from manyhats.backbone import Backbone
from manyhats.engine.forward import Row, forward
from manyhats.engine.scoring import score_whole
from manyhats.engine.stream import Stream
from manyhats.methods.plan import in_batch_order


def whole_pass(backbone: Backbone, streams: Sequence[Stream]) -> tuple[list[Stream], Tensor | None]:
    """Scores the prompts that are to be scored; the texts that are to be continued, with logits (texts, vocabulary)."""
    writing: list[Stream] = []
    rows: list[Row] = []
    for stream in in_batch_order(streams, lambda stream: stream.adapter):
        ids = stream.content(stream.virtual, stream.length)
        row = Row(ids, [0] * len(ids), stream.adapter)
        if stream.scores is not None and not stream.scores.complete:
            score_whole(backbone, row, stream.scores)
        if stream.room > 0:
            writing.append(stream)
            rows.append(replace(row, continues=True))
    return writing, torch.stack(forward(backbone, rows)) if rows else None
