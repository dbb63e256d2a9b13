"""Adapters go to a CUDA device beside the passes: one copy and one event each, and nobody waits but the stream.

On the pretended device copies of other streams are made as late as can be, so whoever does not wait reads nothing.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.methods.arena import Packing
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.copy_stream import Arrival, CopyStream
from manyhats.methods.lora.config import LoraConfig
from manyhats.methods.lora.vera import SharedMatrices
from manyhats.methods.pinned_memory import PinnedMemory
from manyhats.methods.registry import METHODS
from manyhats.methods.slots import slot_tables
from manyhats.serving.adapter_reader import AdapterReader

from tests import every, tiny
from tests.launches.device import DEVICE, host_values, pretended_device
from tests.launches.device_counts import Count
from tests.launches.passes import adapters_of

TEXTS = tiny.texts([1, 9, 4])
# A table's changed rows are found on the device: the loading thread waits for how many there are.
WAITS = {"sparse": 1}


@pytest.fixture(scope="module", params=["bert", "llama"])
def folder(request: pytest.FixtureRequest, base_folder: Callable[[str], Path]) -> Path:
    return base_folder(request.param)


@pytest.fixture
def count() -> Iterator[Count]:
    with pretended_device() as found:
        yield found


@pytest.fixture
def there(count: Count, base_folder: Callable[[str], Path]) -> Backbone:
    return Backbone.load(str(base_folder("bert")), device="cuda", dtype="float32")


def of_every_method(folder: Path) -> tuple[Backbone, dict[str, Adapter]]:
    on_cpu = tiny.load(folder)
    made = {name: adapter for name, adapter in adapters_of(on_cpu).items() if adapter is not None}
    return on_cpu, made | {"dora": dora(on_cpu)}


def dora(backbone: Backbone) -> Adapter:
    """Whose gains are computed from the backbone's weights."""
    plain = tiny.adapter(backbone, "lora", 1)
    (part,) = plain.components
    tensors = {site: leaves | {"magnitude": torch.ones(len(leaves["B"]))} for site, leaves in part.tensors.items()}
    config = LoraConfig(scales=part.config.scales, dora="peft")
    return Adapter((type(part)("lora", config, tensors),), None, "embed", 1)


def test_every_method_is_bound_by_one_copy_and_one_event_and_nobody_waits(folder: Path) -> None:
    _, adapters = of_every_method(folder)
    with pretended_device() as count:
        backbone = Backbone.load(str(folder), device="cuda", dtype="float32")
        for name, adapter in adapters.items():
            adapter.bind(backbone)  # what is shared by all of a kind is made once
            count.reset()
            bound = adapter.bind(backbone)
            found = count.copies.total(), count.blocking_copies.total(), count.events, count.waits.total()
            assert found == (1, 0, 1, WAITS.get(name, 0)), (name, count.report())
            count.reset()
            slot_tables(backbone).release(bound)
            assert not any(count.totals().values()), (name, count.report())
            assert (count.events, count.stream_waits) == (0, 0), name


def test_every_method_answers_as_on_the_cpu_though_its_copy_comes_late(folder: Path) -> None:
    on_cpu, adapters = of_every_method(folder)
    expected = {name: tiny.ask(on_cpu, adapter, TEXTS) for name, adapter in adapters.items()}
    with pretended_device() as count:
        backbone = Backbone.load(str(folder), device="cuda", dtype="float32")
        for name, adapter in adapters.items():
            bound = adapter.bind(backbone)
            count.reset()
            for times in (1, 0):
                answers = [host_values(answer) for answer in tiny.ask(backbone, bound, TEXTS)]
                assert tiny.difference(answers, expected[name]) < tiny.CLOSE, name
                assert count.stream_waits == times, name
                assert (count.recorded_streams > 0) == (times > 0), name
                count.reset()


def test_from_host_memory_an_adapter_is_copied_and_nothing_is_computed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where the backbone's weights are needed."""
    on_cpu, adapters = of_every_method(folder)
    expected = {name: tiny.ask(on_cpu, adapter, TEXTS) for name, adapter in adapters.items()}
    with pretended_device() as count:
        backbone = Backbone.load(str(folder), device="cuda", dtype="float32")
        packed = {name: adapter.packed(backbone) for name, adapter in adapters.items()}
        for method in METHODS.values():
            monkeypatch.setattr(type(method), "bind", None)
        for name, one in packed.items():
            if isinstance(one, Adapter):
                assert any(METHODS[part.method].reads_weights(part, backbone) for part in one.components), name
                continue
            for _ in range(2):  # it stays as it is
                count.reset()
                bound = one.bind(backbone)
                found = count.copies.total(), count.blocking_copies.total(), count.events, count.waits.total()
                assert found == (1, 0, 1, 0), (name, count.report())
                assert bound.nbytes <= one.slot_size(backbone) == one.nbytes, name
                answers = [host_values(answer) for answer in tiny.ask(backbone, bound, TEXTS)]
                assert tiny.difference(answers, expected[name]) < tiny.CLOSE, name
                slot_tables(backbone).release(bound)
    assert sum(not isinstance(one, Adapter) for one in packed.values()) > len(packed) // 2


def test_what_few_numbers_describe_is_made_when_there_is_a_slot_for_it(there: Backbone) -> None:
    sites = {name: site.shape for name, site in there.linear.items()}
    shared = SharedMatrices(
        rank=64, outputs=max(o for o, _ in sites.values()), inputs=max(i for _, i in sites.values())
    )
    tensors = {name: {"lambda_b": torch.ones(out), "lambda_d": torch.ones(64)} for name, (out, _) in sites.items()}
    part: Component[Any] = Component("lora", LoraConfig(scales=dict.fromkeys(sites, 1.0), vera=shared), tensors)
    adapter = Adapter((part,), None, "embed", 1)
    assert adapter.slot_size(there) > 2 * adapter.nbytes
    assert adapter.packed(there) is adapter
    assert adapter.bind(there).nbytes == adapter.slot_size(there)


def test_where_slots_are_host_memory_nothing_is_packed(bert: Backbone) -> None:
    adapter = tiny.adapter(bert, "lora", 1)
    assert adapter.packed(bert) is adapter


def test_a_pass_that_does_not_wait_reads_nothing(
    there: Backbone, base_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the other tests would notice."""
    on_cpu = tiny.load(base_folder("bert"))
    adapter = tiny.adapter(on_cpu, "lora", 1)
    bound = adapter.bind(there)
    monkeypatch.setattr(BoundAdapter, "arrive", lambda self: None)
    answers = [host_values(answer) for answer in tiny.ask(there, bound, TEXTS)]
    with pytest.raises(AssertionError):
        assert tiny.difference(answers, tiny.ask(on_cpu, adapter, TEXTS)) < tiny.CLOSE


def test_the_memory_is_recorded_for_the_stream_that_uses_it(there: Backbone, count: Count) -> None:
    """Before it can be given back."""
    bound = tiny.adapter(there, "lora", 1).bind(there)
    assert count.recorded_streams == 0
    tiny.ask(there, bound, TEXTS)
    assert count.recorded_streams == 1  # one allocation


def test_whoever_reads_a_prefix_for_the_cache_waits_too(base_folder: Callable[[str], Path], count: Count) -> None:
    backbone = Backbone.load(str(base_folder("llama")), device="cuda", dtype="float32")
    part = every.parts(backbone)["prefix"]
    bound = Adapter((part,), None, "generate", 1).bind(backbone)
    later = bound.first_chunk
    count.reset()
    for layer in range(backbone.layers):
        bound.prefix(layer)
    later.arrive()  # it is of the same tensors
    assert (count.stream_waits, count.recorded_streams) == (1, 1)


def test_a_loading_thread_may_wait_so_that_no_step_does(there: Backbone, count: Count) -> None:
    bound = tiny.adapter(there, "lora", 1).bind(there)
    assert bound.arrival is not None
    count.reset()
    bound.arrival.wait()
    assert count.waits.total() == 1
    bound.arrival.wait()
    assert count.waits.total() == 1


def test_a_server_gives_an_adapter_to_requests_when_it_is_there(there: Backbone, count: Count) -> None:
    reader = AdapterReader(there, max_rank=64)
    adapter = tiny.adapter(there, "lora", 1)
    for times, one in enumerate((adapter, adapter.packed(there)), start=1):
        bound = reader.bind(one)
        assert bound.arrival is not None
        assert bound.arrival._event.query()
        assert count.waits.total() == times  # of the thread that loads


def test_a_released_adapter_frees_its_memory_without_a_collection_of_cycles(bert: Backbone) -> None:
    """`first_chunk` of an adapter without a prefix is the adapter itself."""
    gc.collect()
    gc.disable()
    try:
        bound = tiny.adapter(bert, "lora", 1).bind(bert)
        assert bound.first_chunk is bound.later_chunks is bound
        gone = weakref.ref(bound)
        slot_tables(bert).release(bound)
        del bound
        assert gone() is None
    finally:
        gc.enable()


def test_what_hides_its_tensors_is_refused(there: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from manyhats.methods.ia3 import Ia3

    class Hides:
        def __init__(self) -> None:
            self.tensor = torch.ones(3)

    bind = Ia3.bind

    def hiding(self: Ia3, component: Any, backbone: Backbone) -> Any:
        bound = bind(self, component, backbone)
        bound.states = {"last": Hides()}
        return bound

    monkeypatch.setattr(Ia3, "bind", hiding)
    with pytest.raises(TypeError, match="Hides holds a tensor, but is no frozen dataclass"):
        Adapter((every.parts(there)["ia3"],), None, "embed", 1).bind(there)


# ---- page-locked memory


def transferred(stream: CopyStream, values: int) -> tuple[Any, Arrival]:
    """A tensor of so many bytes, on its way."""
    with stream.transfer() as transfer:
        arena = transfer.copy(Packing([torch.full((values,), values % 251, dtype=torch.uint8)]))
    return arena, Arrival(transfer.event, DEVICE, [arena])


def test_buffers_are_used_again_when_their_copy_is_done(count: Count) -> None:
    pinned = PinnedMemory()
    stream = CopyStream(DEVICE, pinned)
    for _ in range(20):
        _, arrival = transferred(stream, 1000)
        arrival.wait()
    assert len(pinned._buffers) == 1
    assert count.blocking_copies.total() == 0


def test_a_buffer_is_not_written_to_while_it_is_copied(count: Count) -> None:
    stream = CopyStream(DEVICE, PinnedMemory())
    under_way = [(size, *transferred(stream, size)) for size in (1000, 2000, 3000, 1001)]
    for size, arena, arrival in reversed(under_way):
        arrival.wait_on_stream()
        assert host_values(arena)[:size].eq(size % 251).all()
    assert count.waits.total() == 0


def test_page_locked_memory_is_bounded_and_larger_copies_wait(count: Count) -> None:
    pinned = PinnedMemory(limit=256 << 10)
    stream = CopyStream(DEVICE, pinned)
    on_their_way = [transferred(stream, 60_000) for _ in range(6)]
    assert pinned.nbytes == 256 << 10
    assert count.blocking_copies.total() == 1  # for which none was free, and after which all are
    for arena, arrival in on_their_way:
        arrival.wait_on_stream()
        assert host_values(arena)[:60_000].eq(60_000 % 251).all()
    transferred(stream, 100_000)  # smaller ones give way
    assert (pinned.nbytes, count.blocking_copies.total()) == (256 << 10, 1)
    arena, _ = transferred(stream, 300_000)  # more than all
    assert (pinned.nbytes, count.blocking_copies.total()) == (256 << 10, 2)
    assert host_values(arena)[:300_000].eq(300_000 % 251).all()


def test_without_page_locked_memory_copies_wait_and_the_log_says_so_once(
    count: Count, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    empty = torch.empty

    def refused(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("pin_memory"):
            raise RuntimeError("CUDA error: out of memory")
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", refused)
    stream = CopyStream(DEVICE)
    for _ in range(3):
        arena, _ = transferred(stream, 1000)
        assert host_values(arena)[:1000].eq(1000 % 251).all()
    assert count.blocking_copies.total() == 3
    assert [record.getMessage() for record in caplog.records] == [
        "no page-locked memory, so adapters take longer to the device: CUDA error: out of memory"
    ]


def test_an_error_while_it_binds_gives_the_buffers_back(count: Count) -> None:
    pinned = PinnedMemory()
    stream = CopyStream(DEVICE, pinned)
    with suppress(ValueError), stream.transfer() as transfer:
        transfer.copy(Packing([torch.ones(1000)]))
        raise ValueError("broken")
    transfer.event.synchronize()
    assert [buffer.free for buffer in pinned._buffers] == [True]
