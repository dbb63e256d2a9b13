"""Steps of Llama-8B's and Llama-1B's shape with random weights: by method, greedy and sampled, in graphs or not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from manyhats.backbone import Backbone
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.slots import slot_tables
from stepping import Generation
from torch import Tensor

from device.child import Run, attempt, figure, left, report
from device.engine_under_test import (
    fits,
    flops,
    free,
    generation,
    llama,
    position_bytes,
    tasks_of,
    weight_bytes,
    without_graphs,
)
from device.peft_generation import beside_peft
from device.targets import BARE_STEP, STEP_16, STEP_256, STEP_MASKS
from device.timing import counted, floor, p99, summary_of, sync, timed

BARE = "bare"


class Case(NamedTuple):
    """`graphs`: whether steps run in graphs, where the engine has them."""

    method: str
    tasks: int
    streams: int
    sampled: bool = False
    graphs: bool = True

    @property
    def name(self) -> str:
        """With all that is not usual."""
        what = BARE if self.method == BARE else f"{self.tasks} {self.method}"
        more = (", sampled" if self.sampled else "") + ("" if self.graphs else ", without graphs")
        return f"{self.streams} streams, {what}{more}"


@torch.inference_mode()
def run() -> None:
    """Both sizes; the larger one has the targets."""
    for size in ("8B", "1B"):
        if left() > 20:
            attempt(size, steps_of, size)
        free()
    if left() > 15:
        attempt("PEFT", beside_peft, *((8, 4) if Run.small else (32, 16)))


def groups_of(size: str) -> Iterator[list[Case]]:
    """What is measured, those that are in memory together in one group; the most telling first."""
    few, tasks, many = (8, 4, 12) if Run.small else (32, 16, 256)
    yield [
        Case(BARE, 1, few),
        Case("lora", tasks, few),
        Case(BARE, 1, few, graphs=False),
        Case("lora", tasks, few, graphs=False),
        Case("lora", 1, few),
        Case("lora", tasks, few, sampled=True),
    ]
    yield [Case("lora", many, many), Case(BARE, 1, many), Case("lora", tasks, many)]
    yield [Case("mask", tasks, few), Case("mixture", tasks, few)]
    yield [Case(BARE, 1, few, sampled=True), Case(BARE, 1, 1), Case("lora", 1, 1), Case("ia3", tasks, few)]


def steps_of(size: str) -> None:
    """All of one size: groups one after another, their cases alternately."""
    begin = time.time()
    b = llama(torch.bfloat16, size)
    sync()
    report(f"{size}/backbone", {
        "seconds to make": round(time.time() - begin, 1), "weights GB": round(weight_bytes(b) / 1e9, 3),
        "layers": b.layers, "hidden": b.hidden, "kernels": slot_tables(b).kernels.name,
    })  # fmt: skip
    steps = Steps(b, size)
    attempt(f"{size}/products", steps.products)
    for cases in groups_of(size):
        if left() < 15:
            report(f"{size}/{cases[0].name}", "left out: no time")
            continue
        attempt(f"{size}/group of {cases[0].name}", steps.measure, cases)
        free()


class Steps:
    """`medians`: milliseconds of a step, and `floors`: the least that it could take, by case."""

    def __init__(self, b: Backbone, size: str) -> None:
        self.b, self.size = b, size
        self.medians: dict[str, float] = {}
        self.floors: dict[str, float] = {}

    def measure(self, cases: list[Case]) -> None:
        """All cases of a group alternately, one step each."""
        steps = 6 if Run.small else 40
        adapters: dict[tuple[str, int], list[BoundAdapter]] = {}
        under_way: dict[Case, Generation] = {}
        for case in cases:
            own = case.method, case.tasks
            if own not in adapters:
                masks = {"mask": case.tasks, "mixture": -(-case.tasks // 5)}.get(case.method, 0)
                if masks and not fits(self.b, masks):
                    report(f"{self.size}/{case.name}", "left out: not enough memory")
                    continue
                found = attempt(f"{self.size}/{case.tasks} {case.method}: bind", self._bound, case)
                if found is None:
                    continue
                adapters[own] = found
            started = attempt(f"{self.size}/{case.name}: prefill", self._start, case, adapters[own], steps)
            if started is not None:
                under_way[case] = started
        times = self._in_turn(under_way, steps)
        for case, found in times.items():
            self._report(case, found, under_way[case], adapters[case.method, case.tasks])
        self._figures()
        for case in times:
            if left() > 20 and not case.sampled and case.streams > 1:
                counts = attempt(f"{self.size}/{case.name}: counted", counted, under_way[case].step)
                if counts is not None:
                    report(f"{self.size}/{case.name}: counted", counts)

    def _bound(self, case: Case) -> list[BoundAdapter]:
        begin = time.time()
        found = tasks_of(self.b, case.method, case.tasks)
        sync()
        report(f"{self.size}/{case.tasks} {case.method}: bound", {
            "seconds": round(time.time() - begin, 2), "GB": round(sum(one.nbytes for one in found) / 1e9, 3)
        })  # fmt: skip
        return found

    def _start(self, case: Case, adapters: list[BoundAdapter], steps: int) -> Generation | None:
        """Texts whose prompts have been read."""
        one = generation(self.b, adapters, case.streams, steps + 20, sampled=case.sampled)
        if not case.graphs:
            if one.runner.graphs is None:
                return None  # the same as the other case
            without_graphs(one)
        times = [round(timed(one.step)[0], 2) for _ in range(5)]
        assert one.running == case.streams, f"{one.running} of {case.streams} texts are under way"
        report(f"{self.size}/{case.name}: first steps", {"prefill_ms": times[0], "then": times[1:]})
        return one

    def _in_turn(self, under_way: dict[Case, Generation], steps: int) -> dict[Case, list[float]]:
        """Milliseconds of each step; without those that failed or came to their end."""
        times: dict[Case, list[float]] = {case: [] for case in under_way}
        lost: set[Case] = set()
        end = time.time() + min(15, max(left() / 3, 3))
        for step in range(steps):
            if step >= 5 and time.time() > end:
                break
            for case, one in under_way.items():
                if case in lost:
                    continue
                spent = attempt(f"{self.size}/{case.name}: step", lambda one=one: timed(one.step)[0])
                if spent is None or one.idle:
                    lost.add(case)
                else:
                    times[case].append(spent)
        return {case: found for case, found in times.items() if found and case not in lost}

    def _report(self, case: Case, found: list[float], one: Generation, adapters: list[BoundAdapter]) -> None:
        """`floor_ms`: what reading weights, adapters and cache takes at least, or the layers' operations."""
        used = adapters[: case.streams] if case.method != BARE else []
        size = weight_bytes(self.b) + sum(a.nbytes for a in used) + one.positions * position_bytes(self.b)
        least = floor()(size, flops(self.b, case.streams, used if case.method == "lora" else ()))
        self.floors[case.name], self.medians[case.name] = least, statistics.median(found)
        graphs = one.runner.graphs
        counts = {} if graphs is None else {"graphs captured": graphs.captured, "steps replayed": graphs.replayed}
        report(f"{self.size}/{case.name}", summary_of(found) | {
            "p99": round(p99(sorted(found)), 3), "floor_ms": round(least, 4),
            "to the floor": round(statistics.median(found) / least, 3),
            "tokens_s": round(case.streams / statistics.median(found) * 1e3, 1),
        } | counts)  # fmt: skip

    def _figures(self) -> None:
        """Those with a target, as far as both sides were measured."""
        few, many = (group[0] for group in list(groups_of(self.size))[:2])
        bare, masks = few.name, few._replace(method="mask", tasks=4 if Run.small else 16).name
        loras = masks.replace("mask", "lora")
        ratios = {
            STEP_16: (self.medians.get(loras), self.medians.get(bare)),
            BARE_STEP: (self.medians.get(bare), self.floors.get(bare)),
            STEP_256: (self.medians.get(many.name), self.floors.get(many.name)),
            STEP_MASKS: (self.medians.get(masks), self.floors.get(masks)),
        }
        for name, (value, to) in ratios.items():
            if value is None or to is None:
                continue
            if self.size == "8B":
                figure(name, round(value / to, 3))
            report(f"{self.size}/{name.partition(', ')[2]}", round(value / to, 3))

    def products(self) -> None:
        """The linear layers' products alone, in a graph where there is CUDA: the least that a step takes in torch."""
        b, streams = self.b, 8 if Run.small else 32
        weights: list[Tensor] = [site.weight for site in b.linear.values()]
        inputs = {w.shape[1]: torch.randn(streams, w.shape[1], device=Run.device, dtype=b.dtype) for w in weights}

        def multiply() -> None:
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)

        call: Callable[[], Any] = multiply
        if Run.device == "cuda":
            multiply()
            sync()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                multiply()
            call = graph.replay
        call()
        times = [timed(call)[0] for _ in range(3 if Run.small else 20)]
        least = floor()(sum(w.nbytes for w in weights), flops(b, streams))
        value = summary_of(times) | {"floor_ms": round(least, 4)}
        report(f"{self.size}/the layers' products alone, {streams} streams", value)
