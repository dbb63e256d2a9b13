"""Slots: adapters that are ready on the device, by number, and for each site and operation a table by slot.

A pass finds what acts at a site by the signatures of the adapters in the batch, and each adapter's own weights by its
slot. To bring an adapter into a slot writes one entry for each of its operations; nothing else changes.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from manyhats.kernels.base import Kernels, Weight
from manyhats.kernels.registry import AUTO, choose
from manyhats.kernels.segments import Table
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.operations import HeadLayer
from manyhats.methods.signature import Placement, Signature

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MOST_SHAPES = 256  # of batches, whose groups are kept


class Group(NamedTuple):
    """Operations that are done in one call. `members`: which of the batch's signatures take part."""

    placement: Placement
    tables: dict[str, Table[Any]]
    members: tuple[int, ...]


class SlotTables:
    """The tables of one backbone. Safe from any thread; an adapter that is taken out must not be in a pass.

    `kernels`: what does the operations.
    """

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self._lock = threading.RLock()  # the end of an adapter that nobody holds may come in the middle of all that
        self._tables: dict[tuple[Placement, str], Table[Any]] = {}
        self._free: list[int] = []
        self._count = 0
        self._leaving: dict[int, weakref.finalize[..., BoundAdapter]] = {}  # frees a slot, once
        self._columns: weakref.WeakKeyDictionary[Signature, list[dict[str, Table[Any]]]] = weakref.WeakKeyDictionary()
        self._shapes: OrderedDict[Hashable, Any] = OrderedDict()

    def slot_of(self, adapter: BoundAdapter) -> int:
        """The adapter's slot. One that has none gets it, and keeps it until it is released or forgotten."""
        slot = adapter.slot
        return self._install(adapter) if slot is None else slot

    def _install(self, adapter: BoundAdapter) -> int:
        with self._lock:
            if adapter.slot is not None:
                return adapter.slot
            if self._free:
                slot = self._free.pop()
            else:
                slot = self._count
                self._count += 1
            tables = self._columns_of(adapter.signature)
            for own, operation in zip(tables, adapter.operations, strict=True):
                for table, entry in zip(own.values(), operation.columns, strict=True):
                    table.put(slot, entry)
            self._leaving[slot] = weakref.finalize(adapter, self._drop, slot, tables)
            self._leaving[slot].atexit = False
            adapter.slot = slot
        return slot

    def release(self, adapter: BoundAdapter) -> None:
        """Frees the slots of an adapter that no pass uses any more, and of those that were made of it."""
        for one in (adapter, *adapter.derived):
            slot, one.slot = one.slot, None
            if slot is not None:
                self._leaving[slot]()

    def _drop(self, slot: int, tables: list[dict[str, Table[Any]]]) -> None:
        with self._lock:
            for own in tables:
                for table in own.values():
                    table.drop(slot)
            self._free.append(slot)

    def _columns_of(self, signature: Signature) -> list[dict[str, Table[Any]]]:
        """The tables of each placement of a signature. The lock is held."""
        found = self._columns.get(signature)
        if found is None:
            found = [
                {name: self._tables.setdefault((one, name), Table()) for name in one.kind.columns}
                for one in signature.placements
            ]
            self._columns[signature] = found
        return found

    def groups(self, signatures: Sequence[Signature]) -> list[Group]:
        """What is done in a batch of adapters with these signatures, by stage."""
        found: dict[Placement, tuple[dict[str, Table[Any]], list[int]]] = {}
        with self._lock:
            for i, signature in enumerate(signatures):
                for placement, tables in zip(signature.placements, self._columns_of(signature), strict=True):
                    found.setdefault(placement, (tables, []))[1].append(i)
        made = [Group(placement, tables, tuple(members)) for placement, (tables, members) in found.items()]
        return sorted(made, key=lambda group: group.placement.stage)

    def head_table(self, layer: int) -> Table[Weight]:
        """The heads' layers that stand at one place."""
        return self._tables[Placement("head", layer, 0, HeadLayer.kind), "layer"]

    def kept(self, shape: Hashable, make: Callable[[], T]) -> T:
        """What was made for a shape of batch; the shapes that were used last are kept. Of the model's thread alone."""
        found: T | None = self._shapes.get(shape)
        if found is None:
            found = self._shapes[shape] = make()
            if len(self._shapes) > _MOST_SHAPES:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(shape)
        return found


def use_kernels(backbone: Backbone, name: str = AUTO) -> None:
    """From now on the kernels called `name` do the operations on a backbone, on which no adapter is bound yet.

    Raises what `kernels.registry.choose` raises.
    """
    kernels = choose(backbone.device, name)
    logger.info("kernels: %s", kernels.name)
    backbone.kept[SlotTables] = SlotTables(kernels)


def slot_tables(backbone: Backbone) -> SlotTables:
    """The tables of a backbone; made when they are first asked for, with the kernels that suit its device."""
    tables: SlotTables | None = backbone.kept.get(SlotTables)
    if tables is None:
        tables = backbone.kept.setdefault(SlotTables, SlotTables(choose(backbone.device)))
    return tables
