"""Adapters that come and go beside the passes on a CUDA device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.copy_stream import CopyStream
from manyhats.methods.slots import slot_tables
from torch import Tensor

from tests import tiny

pytestmark = pytest.mark.gpu

TEXTS = tiny.texts([3, 9, 1])
_SOME_TIME = 500_000_000  # cycles of a device, about a quarter of a second


@pytest.fixture
def there(base_folder: Callable[[str], Path]) -> Backbone:
    return Backbone.load(str(base_folder("bert")), device="cuda", dtype="float32")


@pytest.fixture
def here(base_folder: Callable[[str], Path]) -> Backbone:
    return tiny.load(base_folder("bert"))


def adapters(backbone: Backbone, count: int) -> Iterator[Adapter]:
    """Of several methods and sizes."""
    for number in range(count):
        match number % 3:
            case 0:
                yield tiny.adapter(backbone, "lora", number, rank=2 + number % 7)
            case 1:
                yield tiny.adapter(backbone, "bottleneck", number)
            case _:
                yield tiny.adapter(backbone, "mask", number)


def host(answers: list[Tensor]) -> list[Tensor]:
    return [answer.float().cpu() for answer in answers]


def test_answers_are_equal_while_adapters_come_and_go(there: Backbone, here: Backbone) -> None:
    """They are bound in another thread, and released as soon as their pass has been launched."""
    given = list(adapters(here, 60))
    expected = [tiny.ask(here, adapter, TEXTS) for adapter in given]
    bound: list[BoundAdapter] = []
    come = threading.Semaphore(0)

    def load() -> None:
        for adapter in given:
            bound.append(adapter.bind(there))
            come.release()

    loading = threading.Thread(target=load)
    loading.start()
    answers = []
    for number in range(len(given)):
        assert come.acquire(timeout=60)
        answers.append(tiny.ask(there, bound[number], TEXTS))
        slot_tables(there).release(bound[number])
        bound[number] = None  # type: ignore[call-overload]
    loading.join(60)
    for own, other in zip(answers, expected, strict=True):
        assert tiny.difference(host(own), other) < tiny.CLOSE


def test_a_step_that_runs_keeps_the_memory_of_what_is_evicted(there: Backbone, here: Backbone) -> None:
    first, *others = [tiny.adapter(here, "lora", number) for number in range(5)]
    expected = tiny.ask(here, first, TEXTS)
    bound = first.bind(there)
    tiny.ask(there, bound, TEXTS)  # once, so that nothing below has to wait for the device
    torch.cuda._sleep(_SOME_TIME)
    answers = tiny.ask(there, bound, TEXTS)  # behind it
    slot_tables(there).release(bound)
    del bound
    for other in others:  # of the same size, so they would take its memory
        arrival = other.bind(there).arrival
        assert arrival is not None
        arrival.wait()
    assert tiny.difference(host(answers), expected) < tiny.CLOSE


def test_a_step_does_not_wait_for_the_copy_of_another_task(there: Backbone, here: Backbone) -> None:
    kept, coming = (tiny.adapter(here, "lora", number) for number in (1, 2))
    bound = kept.bind(there)
    host(tiny.ask(there, bound, TEXTS))
    stream: CopyStream = there.kept[CopyStream]
    with torch.cuda.stream(stream._stream):
        torch.cuda._sleep(_SOME_TIME)
    later = coming.bind(there)
    host(tiny.ask(there, bound, TEXTS))
    assert later.arrival is not None
    assert not later.arrival._event.query()
    assert tiny.difference(host(tiny.ask(there, later, TEXTS)), tiny.ask(here, coming, TEXTS)) < tiny.CLOSE


def test_memory_is_flat_after_many_swaps(there: Backbone, here: Backbone) -> None:
    given = list(adapters(here, 12))
    kept = tiny.adapter(here, "lora", 99).bind(there)

    def swap(times: int) -> tuple[int, int]:
        for number in range(times):
            bound = given[number % len(given)].bind(there)
            rows = [tiny.row(there, one, text) for one in (kept, bound) for text in TEXTS]
            tiny.run(there, rows)
            slot_tables(there).release(bound)
            del bound, rows
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    before = swap(36)
    allocated, reserved = swap(200)
    assert allocated <= before[0] + (1 << 20)
    assert reserved <= before[1] + (2 << 20)


def test_nobody_waits_for_the_device_to_bind_or_to_release(there: Backbone, here: Backbone) -> None:
    torch.cuda.synchronize()
    given = list(adapters(here, 6))
    for adapter in given:
        slot_tables(there).release(adapter.bind(there))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for adapter in given:
            slot_tables(there).release(adapter.bind(there))
    finally:
        torch.cuda.set_sync_debug_mode("default")
