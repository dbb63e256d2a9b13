"""Servers that are killed at any moment: what was acknowledged is there, and all that is there answers."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
import time
from pathlib import Path

import httpx

from tests.amounts import tried
from tests.api.live import Files
from tests.faults.conftest import Server, Start
from tests.waiting import PATIENCE

TASKS = ("red", "green", "blue")
Acknowledged = dict[tuple[str, int], str]


def uploading(
    server: Server,
    stock: list[Files],
    number: int,
    acknowledged: Acknowledged,
    answered: threading.Event,
    stop: threading.Event,
) -> None:
    """Uploads, deletes and moves aliases until the server is gone. `answered`: set from the first answer on."""
    chance = random.Random(number)
    with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
        try:
            while not stop.is_set():
                task = chance.choice(TASKS)
                answer = server.upload(task, chance.choice(stock), client)
                if answer.status_code == 201:
                    acknowledged[task, answer.json()["version"]] = answer.json()["sha256"]
                else:
                    assert answer.status_code in (200, 404), answer.text  # 200: the task has these bytes already
                answered.set()
                if chance.random() < 0.3:
                    client.put(f"/v1/tasks/{task}/aliases/canary", json={"version": chance.randint(1, 9)})
                if chance.random() < 0.3:
                    client.post(f"/v1/tasks/{task}/rollback")
                if chance.random() < 0.2:
                    client.put(f"/v1/tasks/{task}", json={"priority": chance.randint(-3, 3)})
        except httpx.HTTPError:
            pass  # killed


def check_whole(server: Server, store: Path, acknowledged: Acknowledged) -> None:
    """Every version answers and has its files; nothing else lies about."""
    hidden = store / ".manyhats"
    assert list((hidden / "staging").iterdir()) == []
    hashes: set[str] = set()
    listed: Acknowledged = {}
    for task in server.tasks():
        shown = server.client.get(f"/v1/tasks/{task}").json()
        numbers = [version["version"] for version in shown["versions"]]
        assert set(shown["aliases"].values()) <= set(numbers)
        assert "stable" in shown["aliases"]
        for version in shown["versions"]:
            listed[task, version["version"]] = version["sha256"]
            hashes.add(version["sha256"])
            ref = f"{task}@{version['version']}"
            answer = server.ask(ref)
            assert answer.status_code == 200, answer.text
            assert answer.json()["sha256"] == version["sha256"]
            packed = server.client.get(f"/v1/tasks/{task}/versions/{version['version']}/download")
            with tarfile.open(fileobj=io.BytesIO(packed.content)) as tar:
                files = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
            assert digest(files) == version["sha256"]
        for alias in shown["aliases"]:
            assert server.ask(f"{task}@{alias}").status_code == 200
    assert {path.name for path in (hidden / "blobs").iterdir()} == hashes
    assert acknowledged.items() <= listed.items()


def digest(files: Files) -> str:
    """The sha256 of a version's content, as the store counts it."""
    total = hashlib.sha256()
    for name, data in sorted(files.items()):
        content = hashlib.sha256(data).hexdigest()
        total.update(f"{len(name.encode())}:{name}:{len(data)}:{content}\n".encode())
    return total.hexdigest()


@tried(3, 12)
def test_killed_at_any_moment_the_store_is_whole(serve: Start, adapters, tmp_path, amount):
    store = tmp_path / "store"
    sizes = range(2, 2 + 2 * amount)  # the same bytes again make no version: there is something new in every round
    stock = [adapters(method, labels=n) for n in sizes for method in ("lora", "bottleneck", "mask", "prefix")]
    chance = random.Random(1)
    acknowledged: Acknowledged = {}
    for number in range(amount):
        server = serve(store, "--max-versions", "1000").wait_ready()
        check_whole(server, store, acknowledged)
        answered, stop = threading.Event(), threading.Event()
        threads = [
            threading.Thread(target=uploading, args=(server, stock, number * 10 + i, acknowledged, answered, stop))
            for i in range(3)
        ]
        for thread in threads:
            thread.start()
        assert answered.wait(PATIENCE), "no upload was answered"
        time.sleep(chance.random() * 0.5)  # any moment will do
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()
    server = serve(store).wait_ready()
    check_whole(server, store, acknowledged)
    assert acknowledged
    assert server.upload("red", adapters(labels=9)).status_code == 201
