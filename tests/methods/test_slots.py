"""Slots and their tables: what a released adapter frees, and what is cached for a combination of signatures."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.forward import forward
from manyhats.errors import ConfigurationError
from manyhats.kernels.reference import Reference
from manyhats.kernels.registry import BACKENDS
from manyhats.methods.plan import in_batch_order
from manyhats.methods.slots import SlotTables, slot_tables, use_kernels

from tests import tiny

TEXTS = tiny.texts([3, 8])


@pytest.fixture
def tables(bert: Backbone) -> SlotTables:
    use_kernels(bert, "reference")
    return slot_tables(bert)


def entries(tables: SlotTables, slot: int) -> int:
    """In how many tables a slot has an entry."""
    return sum(slot < len(table.entries) and table.entries[slot] is not None for table in tables._tables.values())


def test_an_adapter_gets_its_slot_before_it_acts(bert: Backbone, tables: SlotTables) -> None:
    bound = tiny.adapter(bert, "lora", 1).bind(bert)
    assert bound.slot is not None
    assert entries(tables, bound.slot) == len(bert.linear)


def test_a_released_adapter_frees_its_slot_for_another_of_any_method(bert: Backbone, tables: SlotTables) -> None:
    stays, released = (tiny.adapter(bert, "lora", i).bind(bert) for i in (1, 2))
    before = tiny.ask(bert, stays, TEXTS)
    slot = released.slot
    assert slot is not None
    slot_tables(bert).release(released)
    assert released.slot is None
    assert entries(tables, slot) == 0
    other = tiny.adapter(bert, "bottleneck", 3).bind(bert)
    assert other.slot == slot
    assert tiny.difference(tiny.ask(bert, stays, TEXTS), before) == 0
    slot_tables(bert).release(other)
    slot_tables(bert).release(other)  # twice frees nothing twice
    assert sorted(tables._free) == sorted(set(tables._free))


def test_a_collected_adapter_frees_its_slot_and_its_weights(bert: Backbone, tables: SlotTables) -> None:
    bound = tiny.adapter(bert, "lora", 1).bind(bert)
    tiny.ask(bert, bound, TEXTS)
    slot = bound.slot
    weights = [weakref.ref(operation.pair.down) for operation in bound.operations]
    assert slot is not None
    del bound
    gc.collect()
    assert entries(tables, slot) == 0
    assert slot in tables._free
    assert all(weight() is None for weight in weights)


def test_adapters_that_act_alike_share_a_signature_and_stand_together(bert: Backbone) -> None:
    loras = [tiny.adapter(bert, "lora", i, rank=i + 1).bind(bert) for i in range(3)]
    masks = [tiny.adapter(bert, "mask", i).bind(bert) for i in range(2)]
    assert len({bound.signature for bound in loras}) == 1
    order = in_batch_order([masks[0], loras[0], masks[1], loras[1], loras[2]], lambda bound: bound)
    assert order == [*loras, *masks]  # own weights last


def test_a_new_adapter_of_a_known_signature_adds_no_tables_or_actors(bert: Backbone, tables: SlotTables) -> None:
    adapters = [tiny.adapter(bert, "lora", i).bind(bert) for i in range(4)]
    with torch.inference_mode():
        forward(bert, [tiny.row(bert, bound, TEXTS[0]) for bound in adapters[:2]])
        known = len(tables._cache), len(tables._tables)
        forward(bert, [tiny.row(bert, bound, TEXTS[0]) for bound in adapters[1:]])
    assert (len(tables._cache), len(tables._tables)) == known


def test_kernels_by_name(bert: Backbone) -> None:
    use_kernels(bert, "reference")
    assert isinstance(slot_tables(bert).kernels, Reference)
    with pytest.raises(ConfigurationError, match=f"no kernels called 'none'; there are auto, {', '.join(BACKENDS)}"):
        use_kernels(bert, "none")
