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


def _with_prompt(prompt: Tensor, y: Tensor, slices: SequenceSlices) -> Tensor:
    """`y` (rows, width); the first rows of every sequence of a segment become the prompt (length, width)."""
    length = len(prompt)
    return torch.cat([chunk for rows in slices for chunk in (prompt, y[rows.start + length : rows.stop])])


@dataclass(frozen=True, slots=True)
class PromptEmbeddings:
    """The prompt as word embeddings. See `methods.base.EmbeddingStep`."""

    prompt: Tensor

    def __call__(self, ids: Tensor, y: Tensor, slices: SequenceSlices) -> Tensor:
        return _with_prompt(self.prompt, y, slices)


@dataclass(frozen=True, slots=True)
class PromptStates:
    """The prompt after the embedding block. See `methods.base.StatesStep`."""

    prompt: Tensor

    def __call__(self, states: Tensor, slices: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        return _with_prompt(self.prompt, states, slices)


def bind_prompt(prompt: Tensor, config: PromptConfig, backbone: Backbone, nbytes: int = 0) -> BoundComponent:
    """`prompt`: (length, width)."""
    length = len(prompt)
    if config.after_embeddings:
        return BoundComponent(states={EMBEDDED: PromptStates(prompt)}, virtual_tokens=length, nbytes=nbytes)
    embedding = {backbone.family.word_embeddings: PromptEmbeddings(prompt)}
    return BoundComponent(embedding=embedding, virtual_tokens=length, position_offset=length, nbytes=nbytes)
