"""Side networks in a packed batch: those of all tasks with the same config in one pass over their frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyhats.backbone.model import Backbone
from manyhats.backbone.packing import pack
from manyhats.backbone.sites import EMBEDDED, LAST
from manyhats.kernels.base import ScaleAdd, Weight
from manyhats.kernels.segments import Segment, Segments
from manyhats.methods.base import BoundComponent, put_rows
from manyhats.methods.operations import OperationKind, StatesPass
from manyhats.methods.plan import AdapterSegment, Plan
from manyhats.methods.side.frame import SideNetwork, network_of

if TYPE_CHECKING:
    from manyhats.methods.component import StateDict


@dataclass(frozen=True, slots=True)
class SideOperation:
    """A network and how its output is blended with the last states. `kept`, `added`: what these and that are multiplied
    by, (width,)."""

    network: SideNetwork
    kept: ScaleAdd
    added: ScaleAdd
    projection: Weight | None
    run: SideRun

    @property
    def kind(self) -> OperationKind:
        return OperationKind("side", tuple(self._by_column), run=self.run)

    @property
    def columns(self) -> tuple[Any, ...]:
        return tuple(self._by_column.values())

    @property
    def _by_column(self) -> dict[str, Any]:
        found = {"network": self.network, "kept": self.kept, "added": self.added}
        return found if self.projection is None else found | {"projection": self.projection}


@dataclass(frozen=True, slots=True)
class SideRun:
    """Runs the networks of one frame. `on_embeddings`: whether they read the backbone's embeddings, which `EmbeddedRun`
    has found, or the tokens. See `methods.operations.StatesRun`."""

    frame: Backbone
    on_embeddings: bool

    def __call__(self, site: StatesPass) -> Tensor:
        """The last states, blended with the networks' output in their rows."""
        runs = site.segments.runs
        side, segments = self._outputs(site)
        own = torch.cat([site.states[rows] for rows in runs])
        if "projection" in site.tables:
            projected = own.new_empty(len(own), own.shape[1])
            site.kernels.linear(side, projected, site.tables["projection"], segments)
            side = projected
        site.kernels.scale_add(own, site.tables["kept"], segments)
        site.kernels.scale_add(side, site.tables["added"], segments)
        mixed = torch.split(own + side, [rows.stop - rows.start for rows in runs])
        return put_rows(site.states, list(zip(runs, mixed, strict=True)))

    def _outputs(self, site: StatesPass) -> tuple[Tensor, Segments]:
        """The networks' last states for the rows of all segments side by side, and these segments."""
        frame, batch = self.frame, site.batch
        rows = [own for sequences in site.sequences for own in batch.sequence_rows(sequences)]
        ids = [batch.host_input_ids[own] for own in rows]
        types = [[] if batch.host_type_ids is None else batch.host_type_ids[own].tolist() for own in rows]
        if self.on_embeddings:
            ids = [one * 0 for one in ids]  # the frame's own table is not used
        staging = frame.staging()
        batch_of_all = pack(frame, [one.tolist() for one in ids], types, staging)
        networks, segments = [], []
        sequence = row = 0
        for segment, sequences in zip(site.segments, site.sequences, strict=True):
            count, length = sequences.stop - sequences.start, segment.stop - segment.start
            adapter = site.tables["network"][segment.slot].adapter
            networks.append(AdapterSegment(adapter, slice(sequence, sequence + count)))
            segments.append(Segment(row, row + length, segment.slot))
            sequence, row = sequence + count, row + length
        actors = Plan(frame, networks).token_actors(batch_of_all)
        side_by_side = Segments(segments)
        if site.kernels.stage is not None:
            site.kernels.stage([side_by_side], list(site.tables.values()), staging, frame.device)
        staging.commit()
        if self.on_embeddings:
            states = frame.kept.pop(EMBEDDED)
            caught = torch.cat([states[own] for own in site.segments.runs])
            actors = replace(actors, states={EMBEDDED: lambda _: caught})
        return frame.encode(batch_of_all, actors), side_by_side


@dataclass(frozen=True, slots=True)
class EmbeddedRun:
    """Finds the embeddings that the networks of a frame read later in the pass."""

    frame: Backbone

    def __call__(self, site: StatesPass) -> Tensor:
        """The states as they are."""
        self.frame.kept[EMBEDDED] = site.states
        return site.states


@dataclass(frozen=True, slots=True)
class EmbeddedOperation:
    """Where a network reads the backbone's embeddings."""

    run: EmbeddedRun

    @property
    def kind(self) -> OperationKind:
        return OperationKind("side embeddings", (), run=self.run)

    @property
    def columns(self) -> tuple[Any, ...]:
        return ()


def bind_network(
    parameters: Mapping[str, Tensor], leaves: StateDict, frame: Backbone, width: int, *, on_embeddings: bool
) -> BoundComponent:
    """`parameters`: the network's; `leaves`: `alpha`, and maybe the projection; `width`: of the last states."""
    blend = torch.sigmoid(leaves["alpha"])
    kept, added = (ScaleAdd(gain.expand(width).contiguous()) for gain in (blend, 1 - blend))
    weight = leaves.get("projection.weight")
    projection = None if weight is None else Weight(weight, leaves.get("projection.bias"))
    network = network_of(parameters, frame)
    operation = SideOperation(network, kept, added, projection, SideRun(frame, on_embeddings))
    embedded = {EMBEDDED: EmbeddedOperation(EmbeddedRun(frame))} if on_embeddings else {}
    return BoundComponent(states={LAST: operation, **embedded}, nbytes=network.nbytes)
