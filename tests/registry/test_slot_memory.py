"""How much memory slots may take: a setting, a share of what a CUDA device has free, or a fixed number."""

from __future__ import annotations

import pytest
import torch
from manyhats.backbone.device_memory import device_memory
from manyhats.errors import TooLarge
from manyhats.registry.budget import MemoryBudget
from manyhats.registry.slot_memory import slot_memory

from tests.registry.test_slots_on_host import Host, version

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
GIB = 1 << 30


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 80 GiB, of which the driver says that 58 are free; torch holds 2 more that it does not use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (58 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 18 * GIB)


def test_a_setting_holds_everywhere(card: None) -> None:
    for device in (CUDA, CPU):
        assert slot_memory(12345, device, 2 * GIB).limit == 12345


def test_by_default_it_is_half_of_what_is_free_beside_the_cache(card: None) -> None:
    assert device_memory(CUDA) == (60 * GIB, 80 * GIB)
    assert slot_memory(0, CUDA).limit == 30 * GIB
    chosen = slot_memory(0, CUDA, 2 * GIB)
    assert chosen.limit == 29 * GIB
    assert str(chosen) == (
        "29.0 GiB, half of the 60.0 GiB that are free on cuda:0, without 2.0 GiB for keys and values"
    )
    assert slot_memory(0, CUDA, 70 * GIB).limit == 0


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_elsewhere_it_is_two_gibibytes(kind: str) -> None:
    assert str(slot_memory(0, torch.device(kind))) == f"2.0 GiB, the default on {kind}"


def test_what_else_takes_of_the_budget_is_not_for_adapters() -> None:
    tables = 0
    budget = MemoryBudget(100, lambda: tables)
    assert budget.reserve(60)
    tables = 30
    assert (budget.limit, budget.used, budget.in_use, budget.fits(10), budget.fits(11)) == (70, 60, 90, True, False)
    tables = 200
    assert (budget.limit, budget.reserve(1)) == (0, False)
    budget.free(60)
    assert budget.in_use == 200


def test_adapters_leave_room_for_the_tables_of_their_slots() -> None:
    host = Host()
    tables = 0
    cache = host.cache(slots=50, memory_bytes=10_000, slot_bytes=100, table_bytes=lambda: tables)
    try:
        for number in range(12):
            wanted = version(f"v{number}")
            cache.acquire(wanted).result(60)
            cache.release(wanted)
            if number == 4:
                tables = 45  # they grew, with five adapters in their slots
            stats = cache.stats()
            assert stats.slot_bytes <= stats.slot_bytes_limit == 100
        assert (stats.slots, stats.slot_bytes) == (5, 95)
        with pytest.raises(TooLarge, match="takes 60 bytes in a slot; all slots together have 55"):
            cache.acquire(version("large", 60)).result(60)
    finally:
        cache.close()
