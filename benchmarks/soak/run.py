"""One soak: a server, its tasks, callers of all sorts, and the verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manyhats.bench.server import BenchServer, serving

from soak.asking import Asker, new_session
from soak.changes import Changes
from soak.decoder import DecoderWork
from soak.encoder import EncoderWork
from soak.load import Chooser, closed_loop, open_loop
from soak.material import ENCODER_KINDS, Piece, load, write_pieces
from soak.questions import Work
from soak.reference import Reference, compute, settle
from soak.rudeness import hang_up, malformed, send_malformed
from soak.tally import Tally
from soak.truth import Truth
from soak.watch import Sample, Trend, sample, trend

CONNECTIONS = 16  # that measure the capacity
SHARE = 0.8  # of the capacity
MOST_GROWTH = 0.03  # of the memory, after the warm-up
MOST_MORE = 4  # descriptors or threads: a pool's last thread, a database's connection
NEAR_TIES = 0.002  # of the compared texts
SPARE = 60  # adapters beyond one for each task, which become their new versions
QUIET = 6.0  # seconds after the last answer until descriptors are counted again


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done. Seconds, and changes, hang-ups and malformed requests a second."""

    backbone: str
    generates: bool
    dtype: str
    seconds: float
    warm_up: float
    tasks: int = 200
    slots: int = 48
    slot_memory: str = "96MiB"
    host_memory: str = "128MiB"
    changes: float = 2.0
    hang_ups: float = 2.0
    malformed: float = 2.0
    cache_memory: str = "64MiB"
    capacity_seconds: float = 8.0
    growth: float = MOST_GROWTH  # of the memory that is allowed


def soak(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs it. `folder`: for the stores, empty. The result says under "failed" what was not as it must be."""
    base = load(plan.backbone)
    kinds = ("generate",) if plan.generates else ENCODER_KINDS
    pieces = write_pieces(base, folder / "pieces", plan.tasks + SPARE, kinds)
    work: Work = DecoderWork() if plan.generates else EncoderWork(plan.dtype)
    del base
    common: dict[str, object] = {"backbone": plan.backbone, "dtype": plan.dtype, "log_level": "warning"}
    if plan.generates:
        common["cache_memory"] = plan.cache_memory
    alone = common | {"store": folder / "alone", "slots": 16, "host_memory": "16MiB", "batch_wait": 0}
    loaded = common | {
        "store": folder / "loaded",
        "slots": plan.slots,
        "slot_memory": plan.slot_memory,
        "host_memory": plan.host_memory,
    }
    with serving(alone) as quiet:
        reference = asyncio.run(_references(quiet, work, pieces))
        say(
            f"{len(pieces)} adapters of {len({p.method for p in pieces})} methods asked {work.texts} texts alone; "
            f"{reference.alike} of {reference.pairs} pairs cannot be told apart"
        )
        with serving(loaded) as busy:
            return asyncio.run(_Run(plan, work, pieces, reference, quiet, busy, say).result())


async def _references(server: BenchServer, work: Work, pieces: list[Piece]) -> Reference:
    async with new_session(server.port) as session:
        return await compute(session, work, pieces)


class _Run:
    def __init__(
        self,
        plan: Plan,
        work: Work,
        pieces: list[Piece],
        reference: Reference,
        quiet: BenchServer,
        busy: BenchServer,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._work, self._pieces, self._reference = plan, work, pieces, reference
        self._quiet, self._busy, self._say = quiet, busy, say
        self._samples: list[Sample] = []
        self._tally = Tally()

    async def result(self) -> dict[str, Any]:
        """Measures the capacity, then asks at a share of it while all else goes on."""
        plan, tally, truth = self._plan, self._tally, Truth()
        async with new_session(self._busy.port) as session, new_session(self._quiet.port) as alone:
            changes = Changes(session, truth, tally, self._pieces, self._reference.digests, random.Random(2))
            await changes.create(self._pieces[: plan.tasks])
            asker = Asker(session, self._work, truth, self._reference.answers, tally)
            chooser = Chooser(changes, self._work, random.Random(3))
            await closed_loop(asker, chooser, CONNECTIONS, plan.capacity_seconds)
            capacity = await closed_loop(asker, chooser, CONNECTIONS, plan.capacity_seconds)
            self._say(f"capacity {capacity:.0f} requests/s; {SHARE:.0%} of it for {plan.seconds:.0f} s from here")
            tally.latencies.clear()
            begin, stop = time.perf_counter(), asyncio.Event()
            others = [
                asyncio.create_task(job)
                for job in (
                    changes.keep_changing(plan.changes, stop),
                    self._repeat(
                        plan.hang_ups, stop, lambda pick: hang_up(self._busy.port, chooser.question(), pick, tally)
                    ),
                    self._repeat(plan.malformed, stop, lambda pick: self._send_malformed(pick)),
                    self._watch(begin, stop),
                )
            ]
            await open_loop(asker, chooser, SHARE * capacity, begin + plan.seconds, self._held_back)
            stop.set()
            await asyncio.gather(*others)
            await settle(alone, self._reference, self._work, asker.doubtful, tally)
        await asyncio.sleep(QUIET)
        return self._verdict(capacity, sample(self._busy.pid, time.perf_counter() - begin))

    def _held_back(self) -> None:
        self._tally.held_back += 1

    async def _send_malformed(self, pick: random.Random) -> None:
        await send_malformed(self._busy.port, malformed("task-0000", pick), self._tally)

    async def _repeat(self, rate: float, stop: asyncio.Event, job: Callable[[random.Random], Any]) -> None:
        pick = random.Random(rate)
        while not stop.is_set():
            await asyncio.sleep(pick.expovariate(rate))
            try:
                await job(pick)
            except OSError as error:  # the server has ended the connection first, as it may
                self._tally.changes[f"hang-up met {type(error).__name__}"] += 1

    async def _watch(self, begin: float, stop: asyncio.Event) -> None:
        said = 0.0
        while not stop.is_set():
            at = time.perf_counter() - begin
            try:
                self._samples.append(sample(self._busy.pid, at))
            except OSError:
                self._tally.fault("the server ended", f"after {at:.0f} s")
                return
            if at - said >= 30:
                said, tally = at, self._tally
                self._say(
                    f"{at:5.0f} s  {self._samples[-1].rss / 2**20:.0f} MiB, {tally.compared} compared, "
                    f"{sum(tally.changes.values())} changes, refused {dict(tally.refused)}, faults {dict(tally.faults)}"
                )
            await asyncio.sleep(1)

    def _thinned(self) -> list[Sample]:
        return self._samples[:: max(len(self._samples) // 120, 1)]

    def _verdict(self, capacity: float, after: Sample) -> dict[str, Any]:
        kept = [s for s in self._samples if s.at >= self._plan.warm_up]
        trends: dict[str, Trend] = {
            name: trend([s.at for s in kept], [getattr(s, name) for s in kept]) for name in ("rss", "files", "threads")
        }
        tally = self._tally
        failed = [f"{count} {kind}" for kind, count in tally.faults.items()]
        if trends["rss"].growth > self._plan.growth:
            failed.append(f"memory grew by {trends['rss'].growth:.1%}, at most {self._plan.growth:.0%} are allowed")
        for name in ("files", "threads"):
            if trends[name].last - trends[name].first > MOST_MORE:
                failed.append(f"{name} grew from {trends[name].first:.0f} to {trends[name].last:.0f}")
        if after.sockets > self._samples[0].sockets + MOST_MORE:
            failed.append(f"{after.sockets} sockets are open {QUIET:.0f} s after the last answer")
        if tally.near_ties > NEAR_TIES * max(tally.compared, 1):
            failed.append(f"{tally.near_ties} of {tally.compared} texts are near ties, more than {NEAR_TIES:.1%}")
        if not tally.compared:
            failed.append("nothing was compared")
        return {
            "plan": {name: getattr(self._plan, name) for name in self._plan.__slots__},
            "capacity": round(capacity, 1),
            "methods": sorted({piece.method for piece in self._pieces}),
            "adapters": len(self._pieces),
            "alike": self._reference.alike,
            "tally": tally.as_json(),
            "rss_mib": {k: round(v / (2**20 if k != "growth" else 1), 4) for k, v in trends["rss"].as_json().items()},
            "files": trends["files"].as_json(),
            "threads": trends["threads"].as_json(),
            "sockets_after": after.sockets,
            "samples": [[round(s.at), s.rss >> 20, s.files, s.sockets, s.threads] for s in self._thinned()],
            "failed": failed,
        }  # fmt: skip
