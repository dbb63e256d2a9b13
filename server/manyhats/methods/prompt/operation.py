"""A soft prompt in a packed batch: rows before every sequence's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyhats.backbone.sites import EMBEDDED
from manyhats.methods.base import BoundComponent, SequenceSlices
from manyhats.methods.prompt.config import PromptConfig

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, PackedBatch


@dataclass(slots=True)
class PromptRows:
    """The first rows of every sequence of a segment become the prompt (length, width)."""

    prompt: Tensor

    def _put(self, y: Tensor, slices: SequenceSlices) -> Tensor:
        length = len(self.prompt)
        chunks = [chunk for rows in slices for chunk in (self.prompt, y[rows.start + length : rows.stop])]
        return torch.cat(chunks)

    def look_up(self, ids: Tensor, y: Tensor, slices: SequenceSlices) -> Tensor:
        """As word embeddings: (rows, width)."""
        return self._put(y, slices)

    def enter(self, states: Tensor, slices: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        """After the embedding block: (rows, hidden)."""
        return self._put(states, slices)


def bind_prompt(prompt: Tensor, config: PromptConfig, backbone: Backbone, nbytes: int = 0) -> BoundComponent:
    """`prompt`: (length, width), on the device."""
    length = len(prompt)
    step = PromptRows(prompt)
    if config.after_embeddings:
        return BoundComponent(states={EMBEDDED: step.enter}, virtual_tokens=length, nbytes=nbytes)
    words = backbone.family.word_embeddings
    return BoundComponent(embedding={words: step.look_up}, virtual_tokens=length, position_offset=length, nbytes=nbytes)
