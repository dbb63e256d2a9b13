"""Slots: the numbers of the adapters on the device, and the tables of their operations' entries by slot.

A pass finds the operations at a site by the signatures of the adapters in the batch, and each adapter's tensors by its
slot. Putting an adapter into a slot writes one entry for each of its operations, and changes nothing else.
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

_MAX_CACHED_BATCHES = 256  # combinations of signatures whose actors are cached


class Group(NamedTuple):
    """Operations that one call computes. `members`: the indices of their adapters' signatures in the batch."""

    placement: Placement
    tables: dict[str, Table[Any]]
    members: tuple[int, ...]


class SlotTables:
    """The slots and tables of one backbone. Thread-safe; an adapter that is released must not be in a pass.

    `kernels`: the backend that computes the operations.
    """

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self._lock = threading.RLock()  # a finalizer may run at any moment, also while this thread holds the lock
        self._tables: dict[tuple[Placement, str], Table[Any]] = {}
        self._free: list[int] = []
        self._slots = 0
        self.version = 0  # changes with every adapter that is put into a slot, or leaves it
        self._finalizers: dict[int, weakref.finalize[..., BoundAdapter]] = {}  # each frees its slot, at most once
        self._tables_by_signature = weakref.WeakKeyDictionary[Signature, list[dict[str, Table[Any]]]]()
        self._cache: OrderedDict[Hashable, Any] = OrderedDict()

    def slot_of(self, adapter: BoundAdapter) -> int:
        """The adapter's slot. An adapter without one is given it, until it is released or garbage-collected."""
        slot = adapter.slot
        return self._install(adapter) if slot is None else slot

    def _install(self, adapter: BoundAdapter) -> int:
        with self._lock:
            if adapter.slot is not None:
                return adapter.slot
            if self._free:
                slot = self._free.pop()
            else:
                slot = self._slots
                self._slots += 1
            tables = self._tables_of(adapter.signature)
            for own, operation in zip(tables, adapter.operations, strict=True):
                for table, entry in zip(own.values(), operation.columns, strict=True):
                    table.put(slot, entry)
            self._finalizers[slot] = weakref.finalize(adapter, self._drop, slot, tables)
            self._finalizers[slot].atexit = False
            adapter.slot = slot
            self.version += 1
        return slot

    def release(self, adapter: BoundAdapter) -> None:
        """Frees the slots of an adapter that no pass uses any more, and of those derived from it."""
        for one in (adapter, *adapter.derived):
            slot, one.slot = one.slot, None
            if slot is not None:
                self._finalizers[slot]()
        adapter.drop_derived()

    def _drop(self, slot: int, tables: list[dict[str, Table[Any]]]) -> None:
        with self._lock:
            for own in tables:
                for table in own.values():
                    table.drop(slot)
            self._free.append(slot)
            self.version += 1

    def _tables_of(self, signature: Signature) -> list[dict[str, Table[Any]]]:
        """The tables of each placement of a signature. The caller holds the lock."""
        found = self._tables_by_signature.get(signature)
        if found is None:
            found = [
                {name: self._tables.setdefault((one, name), Table()) for name in one.kind.columns}
                for one in signature.placements
            ]
            self._tables_by_signature[signature] = found
        return found

    def groups(self, signatures: Sequence[Signature]) -> list[Group]:
        """The groups of operations of a batch of adapters with these signatures, sorted by order."""
        found: dict[Placement, tuple[dict[str, Table[Any]], list[int]]] = {}
        with self._lock:
            for i, signature in enumerate(signatures):
                for placement, tables in zip(signature.placements, self._tables_of(signature), strict=True):
                    found.setdefault(placement, (tables, []))[1].append(i)
        made = [Group(placement, tables, tuple(members)) for placement, (tables, members) in found.items()]
        return sorted(made, key=lambda group: group.placement.order)

    def head_table(self, layer: int) -> Table[Weight]:
        """The table of all heads' layers with this index."""
        return self._tables[Placement("head", layer, 0, HeadLayer.kind), "layer"]

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """The cached value of a key, else the result of `make`. The least recently used values are evicted. Only the
        model's thread may call this."""
        value: T | None = self._cache.get(key)
        if value is None:
            value = self._cache[key] = make()
            if len(self._cache) > _MAX_CACHED_BATCHES:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return value


def use_kernels(backbone: Backbone, name: str = AUTO) -> None:
    """Sets the kernels of a backbone, on which no adapter may be bound yet.

    Raises what `kernels.registry.choose` raises.
    """
    kernels = choose(backbone.device, name)
    logger.info("kernels: %s", kernels.name)
    backbone.kept[SlotTables] = SlotTables(kernels)


def slot_tables(backbone: Backbone) -> SlotTables:
    """The slot tables of a backbone; made at the first call, with the default kernels of its device."""
    tables: SlotTables | None = backbone.kept.get(SlotTables)
    if tables is None:
        tables = backbone.kept.setdefault(SlotTables, SlotTables(choose(backbone.device)))
    return tables
