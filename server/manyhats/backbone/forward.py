"""Runs a frozen model over a batch while actors act at its sites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from manyhats.backbone.attention import PassLayout
from manyhats.backbone.block_sites import BlockSites
from manyhats.backbone.families import Family
from manyhats.backbone.packed_batch import PackedBatch
from manyhats.backbone.sites import ActorContext, Actors
from manyhats.backbone.transformers_internals import LAYOUT_AS_MASK

NO_ACTORS = Actors()


class ForwardPass:
    """The passes of one model, one at a time. `context`: gives the actors to the sites."""

    def __init__(self, model: PreTrainedModel, family: Family, blocks: BlockSites, context: ActorContext) -> None:
        self._model = model
        self._family = family
        self._blocks = blocks
        self._context = context
        self._busy = False

    def encode(self, batch: PackedBatch, actors: Actors) -> Tensor:
        """The last hidden states of all rows, (T, width)."""
        shape = (1, -1) if batch.padded is None else (-1, batch.padded)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids.view(shape),
            "position_ids": batch.position_ids.view(shape),
        }
        if batch.padded is not None:
            inputs["attention_mask"] = batch.padding_mask
        if batch.type_ids is not None:
            inputs["token_type_ids"] = batch.type_ids.view(shape)
        if self._family.causal:
            inputs |= {"use_cache": False, "attention_mask": LAYOUT_AS_MASK}
        with self._acting(actors, batch.layout):
            hidden: Tensor = self._blocks.last(self._model(**inputs).last_hidden_state)
        return hidden.flatten(0, 1)

    def pool(self, pooler: nn.Module, first: Tensor, actors: Actors) -> Tensor:
        """The model's pooler on the first row's state of every sequence: (S, hidden) to (S, hidden)."""
        with self._acting(actors):
            if isinstance(pooler, nn.Linear):  # ALBERT's activation is a separate module
                return self._model.pooler_activation(pooler(first))  # type: ignore[no-any-return]
            pooled: Tensor = pooler(first[:, None])
        return pooled

    def vocabulary_logits(self, head: nn.Module, states: Tensor, actors: Actors) -> Tensor:
        """The language-model head: (S, hidden) to (S, vocabulary)."""
        with self._acting(actors):
            logits: Tensor = head(states)
        return logits

    @contextmanager
    def _acting(self, actors: Actors, layout: PassLayout | None = None) -> Iterator[None]:
        assert not self._busy, "two forward passes at once on one backbone"
        self._busy = True
        actors.start()
        self._context.actors = actors
        self._blocks.begin(layout)
        try:
            yield
        finally:
            actors.stop()
            self._context.actors = NO_ACTORS
            self._busy = False
