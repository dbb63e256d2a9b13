"""A side network in a packed batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone.model import Backbone
from manyhats.backbone.packing import pack
from manyhats.backbone.sites import EMBEDDED, Actors
from manyhats.methods.base import SequenceSlices

if TYPE_CHECKING:
    from manyhats.backbone import PackedBatch


@dataclass(slots=True)
class SideOperation:
    """The network, and the states that it reads in the current pass."""

    network: Backbone
    blend: Tensor  # sigmoid(alpha): () or (width,)
    projection: tuple[Tensor, Tensor | None] | None
    on_embeddings: bool
    caught: Tensor | None = None

    def catch(self, states: Tensor, slices: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        self.caught = states
        return states

    def mix(self, states: Tensor, slices: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        slices = batch.sequence_rows(sequences)
        ids = [batch.host_input_ids[own].tolist() for own in slices]
        types = [[0] * len(one) for one in ids]
        if batch.host_type_ids is not None:
            types = [batch.host_type_ids[own].tolist() for own in slices]
        actors = Actors()
        if self.on_embeddings:
            caught, self.caught = self.caught, None
            assert caught is not None
            ids = [[0] * len(one) for one in ids]  # its own table is not used
            actors = Actors(states={EMBEDDED: lambda own: caught})
        side = self.network.encode(pack(self.network, ids, types), actors)
        if self.projection is not None:
            side = F.linear(side, *self.projection)
        return self.blend * states + (1 - self.blend) * side
