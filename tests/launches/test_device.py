"""The pretended device counts what CUDA would do, and refuses what CUDA refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone
from torch.nn import functional as F

from tests import every, tiny
from tests.launches.device import DEVICE, host_values, pretended_device
from tests.launches.device_counts import Count
from tests.launches.frames import frames_within


def counted(run: Callable[[torch.Tensor], object]) -> Count:
    """What `run` does with a (4, 3) tensor on the device."""
    with pretended_device() as count:
        x = torch.ones(4, 3).to(DEVICE)
        count.reset()
        run(x)
        return count


KERNELS: dict[str, tuple[int, Callable[[torch.Tensor], object]]] = {
    "arithmetic": (2, lambda x: x * 2 + 1),
    "in place": (1, lambda x: x.add_(1)),
    "into a given tensor": (1, lambda x: torch.add(x, 1, out=torch.empty_like(x))),
    "a linear layer with a bias": (1, lambda x: F.linear(x, x, x[:, 0])),
    "attention": (1, lambda x: F.scaled_dot_product_attention(*[x.view(1, 1, 4, 3)] * 3)),
    "another dtype": (1, lambda x: x.to(torch.bfloat16)),
    "the same dtype": (0, lambda x: x.to(torch.float32)),
    "views": (0, lambda x: x[1:].T.unsqueeze(0).expand(2, 3, 3)[..., None]),
    "a contiguous copy of a view": (1, lambda x: x.T.contiguous()),
    "reserved memory": (0, lambda x: torch.empty(5, device=x.device)),
    "zeros": (1, lambda x: torch.zeros(5, device=x.device)),
    "a slice set": (1, lambda x: x.__setitem__(slice(2), x[2:])),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_counted_and_views_are_not(name: str) -> None:
    expected, run = KERNELS[name]
    count = counted(run)
    assert count.kernels.total() == expected, count.report()
    assert not count.copies
    assert not count.waits


WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "int": lambda x: int(x.sum()),
    "float": lambda x: float(x.sum()),
    "list": lambda x: x.tolist(),
    "to the host": lambda x: x.cpu(),
    "copied into host memory": lambda x: torch.empty(4, 3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a mask as an index": lambda x: x[x > 0],
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "a number on the device as an index": lambda x: x[x[0, 0].long()],
}


@pytest.mark.parametrize("name", WAITS)
def test_each_wait_is_counted_with_its_place(name: str) -> None:
    count = counted(WAITS[name])
    assert count.waits.total() == 1, count.report()


COPIES: dict[str, tuple[bool, Callable[[torch.Tensor], object]]] = {
    "to": (True, lambda x: torch.ones(3).to(x.device)),
    "tensor": (True, lambda x: torch.tensor([1, 2], device=x.device)),
    "new_tensor": (True, lambda x: x.new_tensor([1.0, 2.0])),
    "copy_": (True, lambda x: x.copy_(torch.zeros(4, 3))),
    "a list as an index": (True, lambda x: x[[0, 1]]),
    "an index in host memory": (True, lambda x: x[torch.tensor([0, 1])]),
    "not blocking, from memory that is not pinned": (True, lambda x: torch.ones(3).to(x.device, non_blocking=True)),
    "pinned": (False, lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True)),
    "a part of pinned memory": (
        False,
        lambda x: x[0].copy_(torch.empty(9, pin_memory=True)[3:6], non_blocking=True),
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_each_copy_to_the_device_is_counted(name: str) -> None:
    blocking, run = COPIES[name]
    count = counted(run)
    assert count.copies.total() == 1, count.report()
    assert count.blocking_copies.total() == blocking
    assert count.copied_bytes > 0
    assert not count.waits


def test_an_event_is_waited_for_once() -> None:
    with pretended_device() as count:
        event = torch.cuda.Event()
        event.record()
        assert not event.query()
        event.synchronize()
        event.synchronize()
        assert event.query()
    assert count.waits.total() == 1


def test_operators_that_mix_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"same device, but add got one of shape \(4, 3\) on the CPU"):
        counted(lambda x: x + torch.ones(4, 3))
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        counted(lambda x: x.numpy())
    assert counted(lambda x: x + torch.tensor(2.0)).kernels.total() == 1  # a number may stand in host memory


def test_what_counts_as_one_kernel_counts_as_one() -> None:
    with pretended_device() as count:
        x = torch.ones(3).to(DEVICE)
        count.reset()
        with count.one_kernel("fused"):
            (x * 2 + torch.tensor([1.0, 2.0, 3.0], device=DEVICE)).tolist()
    assert count.totals() == {
        "kernels": 1, "operators": 1, "views": 0, "copies": 0, "blocking_copies": 0, "reads": 0, "waits": 0,
    }  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "mask", "side"])
def test_the_engine_answers_there_as_on_the_cpu(method: str, base_folder: Callable[[str], Path]) -> None:
    texts = tiny.texts([1, 9, 4])
    on_cpu = tiny.load(base_folder("bert"))
    adapter = every.adapters(on_cpu)[method]
    expected = tiny.ask(on_cpu, adapter, texts)
    with pretended_device() as count:
        backbone = Backbone.load(str(base_folder("bert")), device="cuda", dtype="float32")
        answers = [host_values(answer) for answer in tiny.ask(backbone, adapter, texts)]
        assert count.kernels
    assert tiny.difference(answers, expected) < tiny.CLOSE


def test_the_device_is_gone_afterwards() -> None:
    with pretended_device():
        x = torch.ones(3).to(DEVICE)
    with pytest.raises(RuntimeError, match="outside of `pretended_device`"):
        x + 1
    assert not torch.cuda.is_initialized()


def test_frames_are_counted_within_a_function_alone() -> None:
    def inner() -> None:
        pass

    def outer(times: int) -> None:
        for _ in range(times):
            inner()

    inner()
    with frames_within(outer.__code__, without="nothing") as calls:
        inner()
        outer(3)
        inner()
    assert calls == {f"{__file__}:inner": 3}
    with frames_within(outer.__code__, without="launches/test_device") as calls:
        outer(3)
    assert not calls
