"""More tasks than slots, and than host memory beside them: of the rate with all of them resident.

    python benchmarks/working_sets.py [--tasks N] [--seconds S] [--rounds N] [--only NAMES] [--json FILE]

Requests for LoRA tasks of rank 8 over MiniLM, uniformly and by Zipf's law, over 64 connections, to servers that take
turns: all tasks resident; slots for 2/3, 1/2 and 1/4 of them with all others in host memory; and slots and host memory
together for half and a quarter of them, so that the rest is read from the disk. Clients share the machine's cores; the
processor's time of a request says more than the rate where others use the machine too.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.server import BenchServer
from over_http import CONNECTIONS, questions, server
from sample_adapters import write_lora_tasks

_EACH = 780_000  # bytes of an adapter of rank 8, as it is served in bfloat16, with what belongs to it
_CPU, _READ = "process_cpu_seconds_total", 'manyhats_adapter_requests_total{tier="disk"}'
_COUNTS = re.compile(rf"^({re.escape(_CPU)}|{re.escape(_READ)}) (\S+)$", re.M)


@dataclass(frozen=True, slots=True)
class Side:
    """A server: the parts of the tasks that have slots, and that host memory has beside them."""

    name: str
    slots: float
    memory: float = 1.0


SIDES = (
    Side("all resident", 1.0),
    Side("1.5 times the slots", 2 / 3),
    Side("2 times the slots", 1 / 2),
    Side("4 times the slots", 1 / 4),
    Side("2 times slots and memory", 1 / 4, 1 / 4),
    Side("4 times slots and memory", 1 / 8, 1 / 8),
)


@dataclass(slots=True)
class Measured:
    """Of each round: requests a second, the processor's seconds of a request, and how many adapters were read."""

    rates: list[float]
    spent: list[float]
    read: list[float]


def one_load(running: BenchServer, names: list[str], seconds: float, *, zipf: bool, found: Measured) -> None:
    """Asks for so long, and adds what was measured."""
    asked = questions(names, zipf=zipf)
    running.load(asked, connections=CONNECTIONS, count=4 * CONNECTIONS)
    cpu, read = _counted(running)
    load = running.load(asked, connections=CONNECTIONS, seconds=seconds)
    cpu, read = (now - then for now, then in zip(_counted(running), (cpu, read), strict=True))
    found.rates.append(load.rate)
    found.spent.append(cpu / load.answers)
    found.read.append(read / load.answers)


def _counted(running: BenchServer) -> tuple[float, float]:
    """The processor's seconds that the server has taken so far, and how many adapters it has read from its disk."""
    text = httpx.get(f"http://127.0.0.1:{running.port}/metrics", timeout=60).raise_for_status().text
    counts = dict(_COUNTS.findall(text))
    return float(counts[_CPU]), float(counts.get(_READ, 0))


def figures(measured: dict[tuple[str, str], Measured]) -> list[Figure]:
    """Each side beside the one with all tasks resident."""
    made = []
    for (name, law), own in measured.items():
        beside = measured[SIDES[0].name, law]
        rate, cpu = (statistics.median(values) for values in (own.rates, own.spent))
        if own is not beside:
            label = f"{name}, {law}: of the resident rate"
            made.append(Figure(label, rate / statistics.median(beside.rates), "", f"{rate:.0f}/s"))
        detail = f"{cpu * 1e3:.2f} ms; {100 * statistics.median(own.read):.1f} adapters read for 100 requests"
        made.append(
            Figure(f"{name}, {law}: processor's time of a request", cpu / statistics.median(beside.spent), "", detail)
        )
    return made


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="some of the sides, by a part of their names, with commas between")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    wanted = [part for part in given.only.split(",") if part]
    sides = [s for s in SIDES if s is SIDES[0] or not wanted or any(part in s.name for part in wanted)]
    measured: dict[tuple[str, str], Measured] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        servers = []
        for i, side in enumerate(sides):  # a store each: one server uses a store at a time
            paths = write_lora_tasks(Path(temporary) / str(i), given.tasks)
            names = [path.name for path in paths]
            memory = f"{int(side.memory * given.tasks * _EACH)}B" if side.memory < 1 else "4GiB"
            options = {"slots": max(int(side.slots * given.tasks), 1), "host_memory": memory, "preload": given.tasks}
            servers.append(stack.enter_context(server(Path(temporary) / str(i), given.dtype, **options)))
        for running in servers:  # all have been in a slot once
            running.load(questions(names), connections=CONNECTIONS, count=2 * given.tasks)
        for round_ in range(given.rounds):
            for side, running in list(zip(sides, servers, strict=True))[:: 1 if round_ % 2 else -1]:
                for law in ("uniform", "Zipf"):
                    found = measured.setdefault((side.name, law), Measured([], [], []))
                    one_load(running, names, given.seconds, zipf=law == "Zipf", found=found)
    ordered = {key: measured[key] for side in sides for key in measured if key[0] == side.name}
    publish(f"{given.tasks} tasks in fewer slots", machine(["uvicorn"]), figures(ordered), given.json)


if __name__ == "__main__":
    main()
