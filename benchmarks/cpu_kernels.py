"""Measures one site on the CPU, in microseconds for each call, for several numbers of tasks.

    .venv/bin/python benchmarks/cpu_kernels.py [--dtype float32] [--variants] [--rounds 300]

Compared with the backbone's own linear layer: the loop over tasks in torch (the reference), all pairs as one padded
`bmm`, all pairs concatenated in one product with a mask, and the C kernel. As in a model, each call uses the weights of
another site: the calls alternate between 24 sites, and between the implementations. The result is the lower decile,
because higher values measure other users of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import cycle

import torch
from manyhats.kernels.base import LowRank
from manyhats.kernels.cpu.backend import CpuKernels
from manyhats.kernels.cpu.library import Library
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segment, Segments, Table
from torch import Tensor
from torch.nn import functional as F

SITES = 24
# rows, tasks, rank, in, out: a decode step of SmolLM2, one text of it, a batch of MiniLM, a bottleneck adapter
SHAPES = [
    (32, 16, 8, 576, 576),
    (32, 16, 8, 576, 1536),
    (32, 16, 8, 1536, 576),
    (1, 1, 8, 576, 1536),
    (1, 1, 64, 576, 1536),
    (1600, 1, 8, 384, 384),
    (1600, 32, 8, 384, 384),
    (1600, 64, 8, 384, 384),
    (1600, 32, 8, 384, 1536),
    (1600, 32, 8, 1536, 384),
    (1600, 32, 48, 384, 384),
]


class Site:
    """One layer, and the pairs of all tasks there."""

    def __init__(self, tasks: int, rank: int, width: int, out: int, dtype: torch.dtype) -> None:
        self.weight = (torch.randn(out, width) / width**0.5).to(dtype)
        self.down = (torch.randn(tasks, rank, width) / width**0.5).to(dtype)
        self.up = torch.randn(tasks, rank, out).to(dtype)
        self.table: Table[LowRank] = Table()
        for slot in range(tasks):
            self.table.put(slot, LowRank(self.down[slot].clone(), self.up[slot].clone()))


def implementations(
    x: Tensor, y: Tensor, segments: Segments, mask: Tensor, kernels: dict[str, CpuKernels]
) -> dict[str, Callable[[Site], object]]:
    """The implementations by name, each for all tasks at one site; `linear` is the layer itself."""

    def bmm(site: Site) -> None:
        tasks = len(site.down)
        low = torch.bmm(x.view(tasks, -1, x.shape[1]), site.down.transpose(1, 2))
        y.view(tasks, -1, y.shape[1]).baddbmm_(low, site.up)

    def side_by_side(site: Site) -> None:
        low = (x @ site.down.flatten(0, 1).T).mul_(mask)
        y.addmm_(low, site.up.flatten(0, 1))

    reference = Reference()
    return {
        "linear": lambda site: F.linear(x, site.weight),
        "loop": lambda site: reference.low_rank(x, y, site.table, segments),
        "bmm": bmm,
        "side by side": side_by_side,
    } | {name: lambda site, own=own: own.low_rank(x, y, site.table, segments) for name, own in kernels.items()}


def measure(implementations: dict[str, Callable[[Site], object]], sites: list[Site], rounds: int) -> dict[str, float]:
    """The lower decile of each implementation's calls, in microseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    next_site = cycle(sites)
    for _ in range(rounds // 10):
        for name, call in implementations.items():
            for i in range(11):
                site = next(next_site)
                before = time.perf_counter()
                call(site)
                if i:  # the first call wakes the threads
                    seconds[name].append(time.perf_counter() - before)
    return {name: statistics.quantiles(values, n=10)[0] * 1e6 for name, values in seconds.items()}


def processor() -> str:
    """The CPU's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown CPU"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], action="append")
    parser.add_argument("--variants", action="store_true", help="every variant that the processor runs")
    parser.add_argument("--rounds", type=int, default=300, help="calls of each implementation")
    args = parser.parse_args()
    torch.manual_seed(0)
    best = Library()
    kernels = {name: CpuKernels(Library(name)) for name in (best.variants if args.variants else [best.variant])}
    print(f"{processor()}, {best.variant}, {torch.get_num_threads()} threads, torch {torch.__version__}; us a call")
    for dtype in args.dtype or ["float32", "bfloat16"]:
        for i_shape, (rows, tasks, rank, width, out) in enumerate(SHAPES):
            kind = getattr(torch, dtype)
            sites = [Site(tasks, rank, width, out, kind) for _ in range(SITES)]
            x, y = torch.randn(rows, width).to(kind), torch.randn(rows, out).to(kind)
            own = rows // tasks
            segments = Segments([Segment(i * own, (i + 1) * own, i) for i in range(tasks)])
            mask = torch.block_diag(*(torch.ones(own, rank) for _ in range(tasks))).to(kind)
            seconds = measure(implementations(x, y, segments, mask, kernels), sites, args.rounds)
            if not i_shape:
                print(f"\n| {dtype}: rows, tasks, rank, in -> out | {' | '.join(seconds)} |")
                print("|---" * (len(seconds) + 1) + "|")
            numbers = " | ".join(f"{value:.0f}" for value in seconds.values())
            print(f"| {rows}, {tasks}, {rank}, {width} -> {out} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
