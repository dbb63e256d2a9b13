"""Times, and counts of the device's work."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from device.child import Run, attempt, left, report


def sync() -> None:
    """Waits until the device is done."""
    if Run.device == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds until the device is done, and until the call came back."""
    sync()
    begin = time.perf_counter()
    run()
    back = time.perf_counter()
    sync()
    return (time.perf_counter() - begin) * 1e3, (back - begin) * 1e3


def copied_bytes_ms() -> float:
    """Bytes that the device reads and writes in a millisecond, copying within its memory."""
    size = 1 << (25 if Run.small else 31)
    one = torch.zeros(size, dtype=torch.uint8, device=Run.device)
    other = torch.empty_like(one)
    other.copy_(one)
    return 2 * size / statistics.median(timed(lambda: other.copy_(one))[0] for _ in range(10))


def product_flops_ms(dtype: torch.dtype = torch.bfloat16) -> float:
    """Operations of a large matrix product in a millisecond."""
    n = 256 if Run.small else 8192
    x, y = (torch.randn(n, n, device=Run.device, dtype=dtype) for _ in range(2))
    out = x @ y
    rounds = 10 if dtype is torch.bfloat16 else 3
    return 2 * n**3 / statistics.median(timed(lambda: torch.mm(x, y, out=out))[0] for _ in range(rounds))


@cache
def floor(dtype: torch.dtype = torch.bfloat16) -> Callable[[float, float], float]:
    """The milliseconds that so many bytes and so many operations take at least on this device, as measured now."""
    bytes_ms, flops_ms = copied_bytes_ms(), product_flops_ms(dtype)
    return lambda size, flops: max(size / bytes_ms, flops / flops_ms)


def p99(ordered: list[float]) -> float:
    """The 99th percentile."""
    return ordered[max(math.ceil(0.99 * len(ordered)), 1) - 1]


def summary_of(values: list[float], digits: int = 3) -> dict[str, Any]:
    """Median, minimum and maximum."""
    ordered = sorted(values)
    return {
        "ms": round(statistics.median(ordered), digits), "min": round(ordered[0], digits),
        "max": round(ordered[-1], digits), "rounds": len(ordered),
    }  # fmt: skip


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, of milliseconds."""
    ordered = sorted(values)
    return {"p50": round(statistics.median(ordered), 2), "p99": round(p99(ordered), 2), "max": round(ordered[-1], 2)}


def in_turn(
    prefix: str,
    sides: dict[str, Callable[[], Any]],
    rounds: int,
    seconds: float,
    floors: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """All sides once a round, after two that do not count; medians. Ends early where time is short. `floors`: the
    milliseconds that a side takes at least."""
    times: dict[str, list[tuple[float, float]]] = {}
    for name, run in sides.items():
        if attempt(f"{prefix}/{name}", lambda run=run: (run(), run(), sync(), True)[-1]):
            times[name] = []
    end = time.time() + min(seconds, max(left() - 8, 1))
    for round_ in range(rounds):
        if round_ >= 3 and time.time() > end:
            break
        for name in times:
            times[name].append(timed(sides[name]))
    for name, found in times.items():
        value = summary_of([one for one, _ in found]) | {"host_ms": round(statistics.median(h for _, h in found), 3)}
        if floors and name in floors:
            value["floor_ms"] = round(floors[name], 4)
        report(f"{prefix}/{name}", value)
    return {name: statistics.median(one for one, _ in found) for name, found in times.items()}


def counted(run: Callable[[], Any]) -> dict[str, Any]:
    """One call's launches, copies and waits, from torch.profiler; on the CPU the number of aten operators."""
    from torch.profiler import ProfilerActivity, profile

    run()
    sync()
    with profile(activities=[ProfilerActivity.CUDA if Run.device == "cuda" else ProfilerActivity.CPU]) as profiled:
        run()
        sync()
    names: dict[str, int] = {}
    kernels: dict[str, int] = {}
    busy = 0.0
    for event in profiled.profiler.kineto_results.events():
        name = event.name()
        if event.device_type() == torch.autograd.DeviceType.CUDA:
            busy += 0.0 if "Sync" in name else event.duration_ns() / 1e6
            kernels[name] = kernels.get(name, 0) + 1
        else:
            names[name] = names.get(name, 0) + 1
    if Run.device != "cuda":
        return {"launches": sum(n for name, n in names.items() if name.startswith("aten::")), "of": "aten operators"}

    def moved(way: str) -> int:
        return sum(n for name, n in kernels.items() if name.startswith("Memcpy") and way in name)

    waits = {name: n for name, n in names.items() if "Synchronize" in name}
    calls = {name: n for name, n in names.items() if "Launch" in name}
    real = {name: n for name, n in kernels.items() if not name.startswith(("Memcpy", "Memset")) and "Sync" not in name}
    most = sorted(real.items(), key=lambda item: -item[1])[:6]
    return {
        "launches": sum(calls.values()), "kernels": sum(real.values()), "gpu_busy_ms": round(busy, 3),
        "copies_to_device": moved("HtoD"), "copies_to_host": moved("DtoH"), "copies_on_device": moved("DtoD"),
        # one cudaDeviceSynchronize is our own; a blocking copy to the device waits too, so it counts here
        "waits": sum(waits.values()), "waits_by_call": waits, "most_launched": {name[:70]: n for name, n in most},
    }  # fmt: skip
