"""From host memory to a slot, and steps meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import torch
from manyhats.backbone import Backbone
from manyhats.methods.component import Component
from stepping import Generation, tokens_of

from device.child import Run, attempt, figure, left, report
from device.engine_under_test import bind, generation, llama, part_of, read, tasks_of
from device.targets import SWAP, SWAPPED_STEP
from device.timing import p99, quantiles, summary_of, sync, timed


@torch.inference_mode()
def run() -> None:
    """All parts."""
    b = llama(torch.bfloat16)
    attempt("bind lora", into_a_slot, b, "lora", 8 if Run.small else 60)
    attempt("steps while swapping", swapping, b)
    attempt("a new task joins", joining, b)
    for method, rounds in (("bottleneck", 10), ("prefix", 10), ("mask", 2)):
        if left() > 6:
            attempt(f"bind {method}", into_a_slot, b, method, rounds)


def into_a_slot(b: Backbone, method: str, rounds: int) -> None:
    """Beside one pinned copy of as many bytes."""
    part = part_of(b, method)
    adapter = in_host_memory(b, part)
    times = [timed(lambda: adapter.bind(b))[0] for _ in range(rounds + 1)][1:]
    tensors = sum(len(leaves) for leaves in part.tensors.values())
    result = summary_of(times) | quantiles(times) | {"tensors": tensors, "file_mb": round(part.nbytes / 1e6, 2)}
    result["slot_mb"] = round(bind(b, part).nbytes / 1e6, 2)
    if Run.device == "cuda":
        pinned = torch.empty(part.nbytes, dtype=torch.uint8).pin_memory()
        there = torch.empty(part.nbytes, dtype=torch.uint8, device=Run.device)
        copies = [timed(lambda: there.copy_(pinned, non_blocking=True))[0] for _ in range(5)]
        result["one pinned copy of as many bytes, ms"] = round(statistics.median(copies), 3)
    report(f"from memory to a slot: {method}", result)
    if method == "lora":
        figure(SWAP, result["p50"])


def in_host_memory(b: Backbone, part: Component[Any]) -> Any:
    """An adapter as the server keeps it there."""
    return read(part).packed(b)


def running(b: Backbone, steps: int) -> Generation:
    """Texts of some tasks, their prompts read, with so many steps before them."""
    texts, tasks = (8, 4) if Run.small else (32, 16)
    one = generation(b, tasks_of(b, "lora", tasks), texts, steps + 20)
    for _ in range(6):
        one.step()
    return one


def swapping(b: Backbone) -> None:
    """Steps while another thread binds adapters."""
    steps = 8 if Run.small else 200
    under_way = running(b, 2 * steps)
    quiet = [timed(under_way.step)[0] for _ in range(steps)]
    part, stop = part_of(b, "lora", 5), threading.Event()
    adapter = in_host_memory(b, part)
    spent: list[float] = []
    lost: list[Exception] = []

    def swap() -> None:
        try:
            with torch.inference_mode():
                while not stop.is_set():
                    spent.append(timed(lambda: adapter.bind(b))[0])
                    stop.wait(0.03)
        except Exception as error:
            lost.append(error)

    thread = threading.Thread(target=swap)
    thread.start()
    graphs = under_way.runner.graphs
    captured = 0 if graphs is None else graphs.captured
    begin = time.time()
    busy = [timed(under_way.step)[0] for _ in range(steps)]
    seconds = time.time() - begin
    stop.set()
    thread.join()
    if lost:
        raise lost[0]
    report("steps, ms", {
        "quiet": quantiles(quiet), "while adapters are bound": quantiles(busy),
        "bound a second": round(len(spent) / seconds, 1), "a bind then, ms": quantiles(spent),
        "graphs captured then": None if graphs is None else graphs.captured - captured,
    })  # fmt: skip
    ordered = sorted(busy)
    figure(SWAPPED_STEP, round(p99(ordered) / statistics.median(ordered), 3))


def joining(b: Backbone) -> None:
    """A request of an adapter that is not loaded yet joins the running ones."""
    under_way = running(b, 60)
    first: list[float] = []
    others: list[float] = []
    for i in range(3 if Run.small else 6):
        part = part_of(b, "lora", 50 + i)
        sync()
        begin = time.perf_counter()
        sequence = under_way.add(f"new {i}", bind(b, part), list(range(5, 29)), 3)
        while not tokens_of(sequence):
            others.append(timed(under_way.step)[0])
        first.append((time.perf_counter() - begin) * 1e3)
        others += [timed(under_way.step)[0] for _ in range(4)]
    report("from memory to the first token, ms", quantiles(first))
    report("steps around a new task, ms", quantiles(others))
