"""The engine with the kernels in Triton: every method, alone and mixed, beside the reference, and what a pass costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.kernels.base import Kernels
from manyhats.kernels.reference import Reference
from manyhats.methods.slots import SlotTables

from tests import tiny
from tests.launches.budgets import DECODE, ENCODER
from tests.launches.device_counts import Count
from tests.launches.measured import OnDevice
from tests.launches.passes import MIXTURE, Decoding, adapters_of, encoder_pass, min_tasks_of, tasks_of

SEQUENCES = 8
# But for what no kernel computes for all tasks of a batch together, whatever the backend.
FREE_OF_TASKS = [
    (family, name)
    for family, budgets in (("bert", ENCODER), ("llama", DECODE))
    for name, budget in budgets.items()
    if not budget.per_task
]


@pytest.fixture
def load_with(device: torch.device, base_folder: Callable[[str], Path]) -> Callable[[str, Kernels], Backbone]:
    """A tiny backbone of a family on the programs' device, with its own kernels."""

    def load(family: str, kernels: Kernels) -> Backbone:
        backbone = tiny.load(base_folder(family)) if device.type == "cpu" else _there(base_folder(family), device)
        backbone.kept[SlotTables] = SlotTables(kernels)
        return backbone

    return load


def _there(folder: Path, device: torch.device) -> Backbone:
    return Backbone.load(str(folder), device=str(device), dtype="float32")


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_every_method_answers_as_with_the_reference(family: str, kernels: Any, load_with: Any) -> None:
    answers = []
    for own in (Reference(), kernels):
        backbone = load_with(family, own)
        adapters = adapters_of(backbone)
        bound = [tiny.bound(backbone, adapter) for adapter in adapters.values()]
        texts = tiny.texts([1 + i * 7 % 23 for i in range(2 * len(bound))])
        answers.append(tiny.run(backbone, [tiny.row(backbone, bound[i % len(bound)], t) for i, t in enumerate(texts)]))
    assert tiny.difference(*answers) < tiny.CLOSE


def test_texts_are_those_of_the_reference(kernels: Any, load_with: Any) -> None:
    texts = []
    for own in (Reference(), kernels):
        backbone = load_with("llama", own)
        tasks = tasks_of(backbone, adapters_of(backbone), "mixture", len(MIXTURE))
        decoding = Decoding(backbone, tasks, len(MIXTURE))
        for _ in range(3):
            decoding.step()
        texts.append([list(sequence.output) for sequence in decoding._scheduler.running])
    assert len(texts[0]) == len(MIXTURE)
    assert texts[0] == texts[1]


def test_a_slot_that_changes_hands_answers_for_its_new_adapter(kernels: Any, load_with: Any) -> None:
    backbone, plain = load_with("bert", kernels), load_with("bert", Reference())
    tables = backbone.kept[SlotTables]
    adapters = [tiny.adapter(backbone, "lora", i, rank=rank) for i, rank in enumerate((2, 5, 17))]
    texts = tiny.texts([3, 9])
    kept = adapters[0].bind(backbone)
    slots = []
    for adapter in adapters[1:]:
        bound = adapter.bind(backbone)
        rows = [tiny.row(backbone, one, text) for one in (kept, bound) for text in texts]
        expected = tiny.ask(plain, adapters[0], texts) + tiny.ask(plain, adapter, texts)
        assert tiny.difference(tiny.run(backbone, rows), expected) < tiny.CLOSE
        slots.append(bound.slot)
        tables.release(bound)
    assert slots[0] == slots[1]


# ---- what a pass costs, on the pretended device


@pytest.fixture(scope="module")
def on_device(device: torch.device, base_folder: Callable[[str], Path]) -> Callable[[str], OnDevice]:
    if device.type != "cpu":
        pytest.skip("the pretended device needs the interpreter")
    from tests.kernels.cuda.pretended import PretendedCuda

    return cache(lambda family: OnDevice(base_folder(family), PretendedCuda()))


@pytest.fixture(scope="module")
def cost(on_device: Callable[[str], OnDevice]) -> Callable[[str, str, int], Count]:
    """What a pass of a family costs that is not the first."""

    def measured(family: str, name: str, tasks: int) -> Count:
        there = on_device(family)
        with mock.patch("manyhats.engine.runner._graphs_of", return_value=None):  # which would hide what is launched
            return (there.encoder if family == "bert" else there.decode)(name, tasks, SEQUENCES)

    return cache(measured)


IN_EVERY_RUN = {("bert", "lora"), ("bert", "bottleneck"), ("bert", "sparse"), ("llama", "lora"), ("llama", "ia3")}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(*one, marks=[] if one in IN_EVERY_RUN else pytest.mark.slow, id=" ".join(one))
        for one in FREE_OF_TASKS
    ],
)
def test_tasks_cost_no_launches_copies_or_waits(cost: Any, family: str, name: str) -> None:
    one, many = (cost(family, name, tasks) for tasks in (min_tasks_of(name), SEQUENCES))
    assert many.kernels.total() <= one.kernels.total(), many.report()
    copies = 2 if name == "side" else 1  # its networks' pass is a second one
    for count in (one, many):
        found = count.copies.total(), count.blocking_copies.total(), count.waits.total()
        assert found == (copies, 0, 1), count.report()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_pairs_take_two_launches_for_sites_with_one_input_and_masks_none_more(
    on_device: Any, cost: Any, family: str
) -> None:
    there = on_device(family)
    bare, pairs, masks = (cost(family, name, SEQUENCES).kernels.total() for name in ("bare", "lora", "mask"))
    # The vocabulary's head is a linear site too, and LoRA acts on all.
    sites = len(there.backbone.linear) - (there.backbone.pooler is not None)
    joined = sum(len(names) - 1 for names in there.backbone.shared)
    assert joined == {"bert": 4, "llama": 6}[family]
    assert pairs - bare == 2 * (sites - joined)
    assert masks == bare


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_a_step_in_a_graph_has_one_copy_one_wait_and_a_launch_whoever_is_in_it(on_device: Any, sampled: bool) -> None:
    from tests.kernels.cuda.pretended import PretendedGraphs

    there = on_device("llama")
    measured = []
    with mock.patch("manyhats.engine.runner.CudaCapture", return_value=PretendedGraphs(there._kernels)):
        for name, tasks in (("bare", 1), ("lora", 1), ("lora", SEQUENCES), ("ia3", SEQUENCES)):
            measured.append(there.decode(name, tasks, SEQUENCES, sampled=sampled, warm=2))
    for count in measured:
        assert (count.copies.total(), count.blocking_copies.total()) == (1, 0), count.report()
        assert (count.reads.total(), count.waits.total()) == (1, 1), count.report()
        assert count.operators["graph"] == 1, count.report()
        assert count.kernels.total() == measured[0].kernels.total(), count.report()
        assert count.kernels.total() <= (60 if sampled else 6), count.report()


def test_adapters_that_come_between_two_passes_cost_no_copy(on_device: Any) -> None:
    """Their entries are written in one launch, from the copy that the pass makes anyway."""
    there = on_device("bert")
    with there._counted() as count:
        for _ in range(2):
            run = encoder_pass(there.backbone, tasks_of(there.backbone, there.adapters, "ia3", 4), SEQUENCES)
            for new in (True, False):
                count.reset()
                run()
                assert count.copies.total() == 1, count.report()
                assert count.operators["index_copy_"] == new, count.report()
