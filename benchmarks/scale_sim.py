"""What ten thousand, a hundred thousand and a million tasks would take: replicas, tiers, metadata, blobs, routing.

    python benchmarks/scale_sim.py [--figures FILE] [--tasks N,N,N] [--requests-a-day R] [--zipf S] [--cores C] ...

Everything that one task or one request costs is read from a file of measured figures, as `many_tasks.py` writes it.
What is simulated is which adapters are where: requests by Zipf's law run through the tiers of one replica, each the
longest unused first, and as many replicas are taken as have the processors for it. The output is in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIGURES = Path(__file__).parent / "results" / "many_tasks.json"
_DAY = 86_400
_SAMPLED = 50_000  # requests that one replica is followed for, and as many before, which are not counted
_NAME = 64  # bytes of a task's name and what a router keeps with it


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes and seconds of the processor, by what they are of."""

    registered: float
    row: float
    files: float
    resident: float
    server: float
    backbone: float
    opening: float
    request: float
    loading: float
    loading_copy: float

    @classmethod
    def read(cls, file: Path) -> Measured:
        """The figures of `many_tasks.py`. Raises KeyError for one that is missing."""
        found = {one["name"]: one["value"] for one in json.loads(file.read_text(encoding="utf-8"))["figures"]}
        return cls(
            registered=found["memory of a registered task"] * 1e3,
            row=found["database of a registered task"] * 1e3,
            files=found["files of a task"] * 1e3,
            resident=found["memory of a resident task"] * 1e3,
            server=found["memory of a server with few tasks"] * 1e6,
            backbone=found["weights of the backbone"] * 1e6,
            opening=found["processor's time to open, of a task"] / 1e6,
            request=found["processor's time of a request"] / 1e3,
            loading=found["processor's time to load an adapter"] / 1e3,
            loading_copy=found["processor's time to load the backbone"],
        )


@dataclass(frozen=True, slots=True)
class Replica:
    """One server: processors, and the bytes that adapters may take in slots and beside them, and files on its disk."""

    cores: int
    slots: int
    host_memory: float
    disk: float
    busy: float  # the part of its processors that may be busy


@dataclass(frozen=True, slots=True)
class Found:
    """Where the adapters of a replica's requests were, as parts of these; `store`: in the object store."""

    slot: float
    memory: float
    disk: float
    store: float


def popularity(tasks: int, exponent: float) -> np.ndarray:
    """How the requests are divided among the tasks."""
    weights = np.arange(1, tasks + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def tiers(sizes: Sequence[int], asked: Iterable[int], counted_from: int) -> list[float]:
    """The part of the requests whose adapter was in each tier, and in none; what a tier evicts goes into the next."""
    held: list[OrderedDict[int, None]] = [OrderedDict() for _ in sizes]
    counts = [0] * (len(sizes) + 1)
    total = 0
    for i, task in enumerate(asked):
        found = next((n for n, tier in enumerate(held) if task in tier), len(sizes))
        if found < len(sizes):
            del held[found][task]
        if i >= counted_from:
            counts[found] += 1
            total += 1
        moved = task
        for tier, size in zip(held, sizes, strict=True):
            if not size:
                continue
            tier[moved] = None
            if len(tier) <= size:
                break
            moved, _ = tier.popitem(last=False)
    return [count / max(total, 1) for count in counts]


def simulate(
    shares: np.ndarray, replicas: int, replica: Replica, bytes_each: float, files: float, *, affinity: bool
) -> Found:
    """One of the replicas, to which the requests of a task always go (`affinity`), or any requests."""
    rng = np.random.default_rng(0)
    own = np.arange(len(shares)) if not affinity else np.flatnonzero(rng.integers(0, replicas, len(shares)) == 0)
    if not len(own):
        return Found(1.0, 0.0, 0.0, 0.0)
    cumulative = np.cumsum(shares[own])
    memory, disk = int(replica.host_memory / bytes_each), int(replica.disk / files)
    # The tiers begin full of what is asked for most: filling them by requests would take a day's.
    warm = own[: replica.slots + memory + disk][::-1].tolist()
    picked = np.searchsorted(cumulative, rng.random(2 * _SAMPLED) * cumulative[-1], side="right")
    asked = [*warm, *own[np.minimum(picked, len(own) - 1)].tolist()]
    return Found(*tiers((replica.slots, memory, disk), asked, len(warm) + _SAMPLED))


def seconds(found: Found, measured: Measured, loading: float) -> float:
    """Of the processor, for one request."""
    return measured.request + loading * (found.disk + found.store)


def replicas_for(
    rate: float,
    shares: np.ndarray,
    replica: Replica,
    measured: Measured,
    *,
    affinity: bool,
    bytes_each: float,
    files: float,
    loading: float,
) -> tuple[int, Found]:
    """As many replicas as have the processors for so many requests a second, and where one finds its adapters."""

    def enough(count: int) -> tuple[bool, Found]:
        found = simulate(shares, count, replica, bytes_each, files, affinity=affinity)
        return rate / count * seconds(found, measured, loading) <= replica.cores * replica.busy, found

    capacity = replica.cores * replica.busy
    low = max(math.ceil(rate * measured.request / capacity), 1) - 1  # too few, whatever is found in slots
    high = max(math.ceil(rate * (measured.request + loading) / capacity), 1)  # enough, if nothing is
    while high - low > max(1, high // 32):
        middle = (low + high) // 2
        if enough(middle)[0]:
            high = middle
        else:
            low = middle
    return high, enough(high)[1]


def percent(part: float) -> str:
    """A part in percent."""
    return f"{100 * part:.1f} %"


def amount(bytes_: float) -> str:
    """Bytes in a unit of their size."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if bytes_ < 1000 or unit == "TB":
            break
        bytes_ /= 1000
    return f"{bytes_:.0f} {unit}" if bytes_ >= 100 else f"{bytes_:.2g} {unit}"


def duration(value: float) -> str:
    """Seconds in a unit of their size."""
    if value < 0.0995:  # 99.5 ms and more would be 1e+02
        return f"{value * 1e3:.2g} ms"
    return f"{value:.2g} s" if value < 120 else f"{value / 60:.3g} min"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table of Markdown."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def show(counts: list[int], measured: Measured, replica: Replica, given: argparse.Namespace) -> None:
    """Simulates each number of tasks, and prints what it takes."""
    head = ["", *(f"{count:,} tasks" for count in counts)]
    table(
        ["a task", "takes"],
        [
            ["registered: in each replica's memory", amount(measured.registered)],
            ["registered: in the database", amount(measured.row)],
            ["its files, on disk or in an object store", amount(measured.files)],
            ["in a slot or in host memory", amount(measured.resident)],
            ["brought from disk into a slot", duration(measured.loading) + " of a processor"],
            ["a request", duration(measured.request) + " of a processor"],
            ["as a full copy of the backbone", amount(measured.backbone)],
        ],
    )
    rows: dict[str, list[str]] = {}

    def add(name: str, value: str) -> None:
        rows.setdefault(name, []).append(value)

    for count in counts:
        shares = popularity(count, given.zipf)
        rate = count * given.requests_a_day / _DAY
        add("requests a second", f"{rate:,.0f}")
        for label, affinity in (("each task to its replica", True), ("any replica", False)):
            own, found = replicas_for(
                rate, shares, replica, measured, affinity=affinity, bytes_each=measured.resident,
                files=measured.files, loading=measured.loading,
            )  # fmt: skip
            add(f"{label}: replicas", f"{own:,}")
            add(f"{label}: found in a slot", percent(found.slot))
            add(f"{label}: in host memory", percent(found.memory))
            add(f"{label}: on its disk", percent(found.disk))
            add(f"{label}: in the object store", percent(found.store))
            if affinity:
                replicas, fetched = own, found.store
        add("the most asked task, of one replica", f"{shares[0] * replicas:.2g}")
        add("metadata: memory of each replica", amount(count * measured.registered))
        add("metadata: database", amount(count * measured.row))
        add("metadata: opened by a starting replica", duration(count * measured.opening))
        changes = count * given.changes_a_day / _DAY
        add("metadata: changes a second", f"{changes:.2g}")
        add("metadata: of what one writer at a time can do", percent(changes * given.change / 1e3))
        add("blobs: all files", amount(count * measured.files))
        add("blobs: fetched a second, all replicas", amount(rate * fetched * measured.files))
        add("routing: names of what replicas hold", amount(replicas * replica.slots * _NAME))
        memory = measured.server + count * measured.registered + replica.slots * measured.resident + replica.host_memory
        add("memory of all replicas", amount(replicas * memory))
        copies = Replica(replica.cores, int(memory / measured.backbone), 0.0, 0.0, replica.busy)
        on_demand, kept = replicas_for(
            rate, shares, copies, measured, affinity=True,
            bytes_each=measured.backbone, files=measured.backbone, loading=measured.loading_copy,
        )  # fmt: skip
        add("full copies: files", amount(count * measured.backbone))
        add("full copies, all in memory: memory", amount(count * measured.backbone))
        add("full copies, all in memory: machines of that memory", f"{math.ceil(count * measured.backbone / memory):,}")
        add("full copies, loaded when asked: replicas", f"{on_demand:,}")
        add("full copies, loaded when asked: found in memory", percent(kept.slot))
    table(head, ([name, *values] for name, values in rows.items()))


def main() -> None:
    """Reads the figures, simulates, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--tasks", default="10000,100000,1000000")
    parser.add_argument("--requests-a-day", type=float, default=500.0, help="of a task, on average")
    parser.add_argument("--changes-a-day", type=float, default=0.2, help="of a task, on average")
    parser.add_argument("--change", type=float, default=15.0, help="ms of a change, until it is durable")
    parser.add_argument("--zipf", type=float, default=1.0, help="the exponent of the law")
    parser.add_argument("--cores", type=int, default=2, help="of a replica")
    parser.add_argument("--busy", type=float, default=0.6, help="part of them that may be busy")
    parser.add_argument("--slots", type=int, default=1000, help="of a replica")
    parser.add_argument("--host-memory", type=float, default=4.0, help="of a replica beside its slots, GB")
    parser.add_argument("--disk", type=float, default=50.0, help="of a replica, for files of adapters, GB")
    given = parser.parse_args()
    replica = Replica(given.cores, given.slots, given.host_memory * 1e9, given.disk * 1e9, given.busy)
    print(
        f"{given.requests_a_day:g} requests and {given.changes_a_day:g} changes a day of each task on average, Zipf's "
        f"law with {given.zipf:g}; replicas of {given.cores} processors, {given.slots} slots, {given.host_memory:g} GB "
        f"of host memory and {given.disk:g} GB of disk for adapters, {percent(given.busy)} busy; {given.change:g} ms a "
        "change.\n"
    )
    show([int(count) for count in given.tasks.split(",")], Measured.read(given.figures), replica, given)


if __name__ == "__main__":
    main()
