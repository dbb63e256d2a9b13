"""CUDA graphs of decode steps: what a step launches is captured once, and launched again as a whole in later steps.

A graph belongs to a number of rows and to a set of signatures: which operations act at which sites. Which adapters act
on which rows, where their tensors lie, and what their ranks are is read from the device's memory, so that a task that
comes, leaves or moves to another slot needs no new graph. Nothing in a graph waits for the host, allocates, or
depends on what the host knows of a step; a step of which that cannot be said runs without one. As a graph is
captured, it is compared with the same step without it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyhats.backbone import Backbone, SequenceChunk, pack_chunks
from manyhats.backbone.cache import KeyValueCache
from manyhats.backbone.decode_attention import CACHE_ROWS
from manyhats.backbone.staging import FixedStagingBuffer, HostBuffers, StagingBuffer
from manyhats.errors import EngineFailure
from manyhats.kernels.base import Captures
from manyhats.kernels.segments import Segment, Segments
from manyhats.methods.actors import ActorSet, FixedPass
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.signature import Signature
from manyhats.methods.slots import SlotTables, slot_tables

logger = logging.getLogger(__name__)

_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # rows of graphs; a step is filled up to the next
_MAX_GRAPHS = 64  # the least recently used are dropped
_MAX_KNOWN = 1024  # sets of signatures of which it is known that they cannot be captured, or have used a larger graph
_EXACT_AFTER = 16  # steps in a graph with more operations than they need, before one without them is captured
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}  # of the largest logit
_EXTRA_WORDS = 1 << 17  # of the staging memory, for what a step brings besides


class Capture(Protocol):
    """Captures what a function launches."""

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """The function's result, and what launches the same again, which writes the result anew."""
        ...


class CudaCapture:
    """With torch's CUDA graphs, whose memory is one pool: only the graph that ran last has a result.

    A pool lives as long as one of its graphs; torch refuses to capture into one whose graphs are all gone. So a graph
    shares the pool of one that is alive, which is held meanwhile, and else begins a new one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._alive: WeakSet[Any] = WeakSet()

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """See `Capture`. Other threads may copy and allocate meanwhile."""
        graph = torch.cuda.CUDAGraph()
        other = next(iter(self._alive), None)
        pool = None if other is None else other.pool()
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            result = run()
        self._alive.add(graph)
        return result, graph.replay


@dataclass(slots=True, eq=False)
class _Graph:
    """The graph of so many rows and these signatures. `state`: what it depends on besides (see
    `kernels.base.Captures`); `replay`: None until it is captured."""

    rows: int
    signatures: tuple[Signature, ...]
    tokens: ActorSet
    vocabulary: ActorSet
    staging: FixedStagingBuffer
    state: Hashable = None
    logits: Tensor | None = None
    replay: Callable[[], None] | None = None
    uses_by_fewer: dict[frozenset[Signature], int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, frozenset[Signature]]:
        """Among all graphs."""
        return self.rows, frozenset(self.signatures)


class DecodeGraphs:
    """The graphs of a backbone's decode steps. Only the model's thread uses it.

    `captures`: of the backend; `captured`: how many graphs have been captured, and `replayed`: how many steps ran in
    one.
    """

    def __init__(self, backbone: Backbone, captures: Captures, capture: Capture) -> None:
        self.captured = 0
        self.replayed = 0
        self._backbone = backbone
        self._captures = captures
        self._capture = capture
        self._tables: SlotTables = slot_tables(backbone)
        self._graphs: OrderedDict[tuple[int, frozenset[Signature]], _Graph] = OrderedDict()
        self._refused: set[Hashable] = set()  # what could not be captured
        self._buffers = HostBuffers(backbone.device)
        self._memory: Tensor | None = None
        self._last: tuple[_Graph, list[BoundAdapter], dict[tuple[int, ...], NDArray[np.int32]]] | None = None
        self._current: tuple[_Graph, int] | None = None  # whose tables are up to date, and as of which version

    def drop_plan(self) -> None:
        """Drops what is kept of the last step, whose references would keep the slots of unused adapters occupied."""
        self._last = None

    def logits(
        self,
        adapters: Sequence[BoundAdapter],
        chunks: Sequence[SequenceChunk],
        cache: KeyValueCache,
        put: Callable[[StagingBuffer], None],
    ) -> tuple[Tensor, StagingBuffer] | None:
        """The logits (sequences, vocabulary) after one token of each cached sequence; None where the step has to run
        without a graph. They are valid until the next step.

        `adapters`: in batch order; `put`: puts what else the step needs into its staging buffer, which is returned
        too, committed.
        """
        if len(adapters) > _SIZES[-1] or any(chunk.left_out or chunk.length != 1 for chunk in chunks):
            return None
        graph = self._graph_of(adapters, cache)
        if graph is None:
            return None
        staging = graph.staging
        staging.begin()
        pad = SequenceChunk([0], cache_rows=np.array([cache.pad_row]))
        batch = pack_chunks(self._backbone, cache, [*chunks, *[pad] * (graph.rows - len(chunks))], staging)
        tiles = self._tiles(graph, list(adapters))
        for members, array in tiles.items():
            staging.put(_name(members), array)
        if not staging.seal():
            return None
        put(staging)
        state = self._update(graph, staging)
        if not staging.fits:
            return None
        staging.commit()
        self._captures.flush()
        if graph.replay is None or state != graph.state:

            def run() -> Tensor:
                fixed = FixedPass({members: self._captures.fixed(staging[_name(members)]) for members in tiles})
                states = self._backbone.encode(batch, graph.tokens.actors(fixed))
                return self._backbone.vocabulary_logits(states, graph.vocabulary.actors(fixed))

            if not self._captured(graph, run, len(chunks)):
                return None
            graph.state = state
        else:
            graph.replay()
        assert graph.logits is not None
        self.replayed += 1
        return graph.logits[: len(adapters)], staging

    def _update(self, graph: _Graph, staging: FixedStagingBuffer) -> Hashable:
        """See `kernels.base.Captures.update`."""
        current = graph, self._tables.version
        if self._current == current and graph.replay is not None:
            return graph.state
        self._current = None  # until all of it has succeeded
        tables = [*graph.tokens.tables, *graph.vocabulary.tables]
        state = self._captures.update(tables, staging, self._backbone.device)
        if staging.fits:
            self._current = current
        return state

    def _captured(self, graph: _Graph, run: Callable[[], Tensor], own: int) -> bool:
        """Captures the graph, launches it once, and compares the first `own` rows of its logits with those of the same
        step without a graph. Returns False where they differ, or it cannot be captured."""
        replaced = graph.replay  # it keeps the pool alive, in which the new one takes the old one's place
        graph.logits = graph.replay = None
        try:
            expected = run()[:own]  # also compiles programs, and makes what is made at a first call
            graph.logits, graph.replay = self._capture(run)
            del replaced
            graph.replay()
            if not _agree(expected, graph.logits[:own]):
                raise EngineFailure("its logits in the graph are others")
        except Exception as error:
            graph.replay = None
            if len(self._refused) >= _MAX_KNOWN:
                self._refused.clear()
            self._refused.add(graph.key)
            self._graphs.pop(graph.key, None)
            logger.warning("a decode step of %d rows runs without a CUDA graph: %s", graph.rows, error)
            return False
        self.captured += 1
        return True

    # ---- which graph

    def _graph_of(self, adapters: Sequence[BoundAdapter], cache: KeyValueCache) -> _Graph | None:
        """The graph for a step of these adapters; None where it cannot be captured.

        One that has further operations will do, whose launches find no rows; where that happens often, one without
        them is made.
        """
        rows = next(size for size in _SIZES if size >= len(adapters))
        needed = frozenset(one.signature for one in set(adapters) if one.signature.placements)
        key = rows, needed
        if key in self._refused:
            return None
        graph = self._graphs.get(key)
        if graph is None and needed:
            larger = [one for (size, have), one in self._graphs.items() if size == rows and have > needed]
            graph = min(larger, key=lambda one: len(one.signatures), default=None)
            if graph is not None:
                if len(graph.uses_by_fewer) >= _MAX_KNOWN:
                    graph.uses_by_fewer.clear()
                uses = graph.uses_by_fewer[needed] = graph.uses_by_fewer.get(needed, 0) + 1
                graph = None if uses > _EXACT_AFTER else graph
        if graph is None:
            graph = self._graphs[key] = self._new(rows, needed, cache)
            if len(self._graphs) > _MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(graph.key)
        return graph

    def _new(self, rows: int, signatures: frozenset[Signature], cache: KeyValueCache) -> _Graph:
        head = self._backbone.vocabulary
        ordered = tuple(signatures)
        everywhere = ActorSet(self._tables, ordered, None, True, self._backbone.shared)
        in_head = ActorSet(self._tables, ordered, frozenset() if head is None else head.parts, False)
        if self._memory is None:
            # Sequences that share a prefix have its rows each; where that does not fit, a step runs without a graph.
            words = 2 * cache.rows + _EXTRA_WORDS
            with torch.inference_mode(False):
                self._memory = torch.zeros(words, dtype=torch.int64, device=self._backbone.device)
        staging = FixedStagingBuffer(self._buffers, self._memory, CACHE_ROWS)
        return _Graph(rows, ordered, everywhere, in_head, staging)

    def _tiles(self, graph: _Graph, adapters: list[BoundAdapter]) -> dict[tuple[int, ...], NDArray[np.int32]]:
        """The tiles of each combination of signatures, by their numbers in the graph, that a call may ask for."""
        last = self._last
        if last is not None and last[0] is graph and last[1] == adapters:
            return last[2]
        numbers = {signature: i for i, signature in enumerate(graph.signatures)}
        members: list[tuple[int, Segment]] = []
        for row, adapter in enumerate(adapters):
            number = numbers.get(adapter.signature)
            if number is None:
                continue
            adapter.arrive()
            slot = self._tables.slot_of(adapter)
            if members and members[-1][1].slot == slot and members[-1][1].stop == row:
                members[-1] = number, Segment(members[-1][1].start, row + 1, slot)
            else:
                members.append((number, Segment(row, row + 1, slot)))
        combinations = dict.fromkeys([*graph.tokens.combinations, *graph.vocabulary.combinations])
        tiles = {
            own: self._captures.tiles(Segments([s for number, s in members if number in own]), graph.rows)
            for own in combinations
        }
        self._last = graph, adapters, tiles
        return tiles


def _agree(expected: Tensor, found: Tensor) -> bool:
    """Whether logits are the same but for rounding, where they are finite. The host waits for the device."""
    finite = expected.isfinite()
    if not bool((found.isfinite() == finite).all()):
        return False
    difference, largest = (one.float().where(finite, 0).abs().max() for one in (found - expected, expected))
    return bool(difference <= _TOLERANCE[expected.dtype] * largest)


def _name(members: tuple[int, ...]) -> str:
    """Under which tiles are staged."""
    return f"decode.tiles {members}"
