"""The deployment on a real Ray cluster of this machine's processes: two replicas of a tiny decoder."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from manyhats.bench.server import free_port
from manyhats.formats.writer import write_adapter
from manyhats.scale.launcher import cluster, deploy, figures
from manyhats.scale.options import Scaling
from manyhats.settings import Settings

from tests import tiny

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, in this process, are not ours to heed
]

TASKS = [f"task-{i}" for i in range(8)]
TWO = Scaling(replicas=2)
PATIENCE = 600.0  # seconds that a request may wait where all cores are busy


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until something is true; processes start and end meanwhile."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.2)


class Deployed:
    """The running deployment, and ways to ask it."""

    def __init__(self, settings: Settings, bases: list[Path]) -> None:
        self.settings = settings
        self.bases = bases
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=PATIENCE)

    def ask(self, task: str, **given: Any) -> httpx.Response:
        """A short text of a task."""
        body = {"model": task, "prompt": "w1 w2 w3", "max_tokens": 4, "temperature": 0, **given}
        return self.client.post("/v1/completions", json=body)

    def texts(self) -> dict[str, str]:
        """What each task writes."""
        return {task: self.ask(task).raise_for_status().json()["choices"][0]["text"] for task in TASKS}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Two replicas over one store's folders."""
    root = tmp_path_factory.mktemp("scale")
    bases = [tiny.write_base("llama", root / name) for name in ("base", "other")]
    backbone = tiny.load(bases[0])
    for seed, task in enumerate(TASKS):
        (root / "store" / task).mkdir(parents=True)
        write_adapter(tiny.adapter(backbone, "lora", seed, kind="generate"), root / "store" / task, backbone)
    settings = Settings(
        backbone=str(bases[0]), store=root / "store", port=free_port(), threads=1, preload=0, request_timeout=PATIENCE
    )
    with cluster(TWO):
        deploy(settings, TWO)
        running = Deployed(settings, bases)
        with running.client:
            yield running


@pytest.fixture
def asking(deployed: Deployed) -> Iterator[Callable[[], list[httpx.Response]]]:
    """Clients that ask all the time; called, it ends them and gives all answers."""
    over = threading.Event()
    answers: list[httpx.Response] = []

    def ask(first: int) -> None:
        i = first
        while not over.is_set():
            answers.append(deployed.ask(TASKS[i % len(TASKS)]))
            i += 1

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(ask, first) for first in range(4)]

        def end() -> list[httpx.Response]:
            over.set()
            for worker in workers:
                worker.result()
            return answers

        try:
            eventually(lambda: len(answers) > 8, "clients are answered")
            yield end
        finally:
            over.set()


def test_a_task_stays_with_its_replica_and_all_replicas_are_asked(deployed: Deployed) -> None:
    chosen = {task: {deployed.ask(task).headers["X-Manyhats-Replica"] for _ in range(5)} for task in TASKS}
    assert all(len(replicas) == 1 for replicas in chosen.values())
    assert len(set().union(*chosen.values())) == 2
    asked, held = (sum(one[key] for one in figures()) for key in ("asked", "held"))
    assert held >= asked - len(TASKS)  # the first request of each


def test_an_answer_streams(deployed: Deployed) -> None:
    whole = deployed.ask(TASKS[0], max_tokens=16).json()["choices"][0]["text"]
    body = {"model": TASKS[0], "prompt": "w1 w2 w3", "max_tokens": 16, "temperature": 0, "stream": True}
    with deployed.client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1]) == whole


def test_errors_are_the_application_s_own(deployed: Deployed) -> None:
    assert deployed.ask("unknown").status_code == 404
    answer = deployed.client.post("/v1/tasks/task-0/predict", content=b"{")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "BadRequestError")
    refused = deployed.client.delete("/v1/tasks/task-0")
    assert (refused.status_code, "database_url" in refused.text) == (409, True)


def test_a_replica_learns_that_nobody_waits(deployed: Deployed) -> None:
    body = {"model": TASKS[0], "prompt": "w1", "max_tokens": 40, "ignore_eos": True, "stream": True}
    with deployed.client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        next(answer.iter_lines())
    eventually(lambda: all(one["under_way"] == 0 for one in figures()), "nothing is under way")


def test_a_killed_replica_loses_no_request(deployed: Deployed, asking: Callable[[], list[httpx.Response]]) -> None:
    before = figures()
    os.kill(before[0]["pid"], signal.SIGKILL)

    def replaced() -> bool:
        names = {one["replica"] for one in figures()}
        return len(names) == 2 and before[0]["replica"] not in names

    eventually(replaced, "another replica is there")
    assert {answer.status_code for answer in asking()} == {200}


def test_another_backbone_comes_replica_by_replica(
    deployed: Deployed, asking: Callable[[], list[httpx.Response]]
) -> None:
    """The other folder holds the same weights, so that each answer can be compared."""
    before, old = deployed.texts(), {one["replica"] for one in figures()}
    assert {one["backbone"] for one in figures()} == {str(deployed.bases[0])}
    deploy(deployed.settings.model_copy(update={"backbone": str(deployed.bases[1])}), TWO)
    eventually(lambda: not old & {one["replica"] for one in figures()}, "all have been replaced")
    answers = asking()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["choices"][0]["text"] for answer in answers} <= set(before.values())
    assert {one["backbone"] for one in figures()} == {str(deployed.bases[1])}
    assert deployed.texts() == before


def test_a_deployment_that_has_not_changed_keeps_its_replicas(deployed: Deployed) -> None:
    before = {one["replica"] for one in figures()}
    backbone = {one["backbone"] for one in figures()}.pop()
    deploy(deployed.settings.model_copy(update={"backbone": backbone}), Scaling(replicas=3))
    eventually(lambda: len(figures()) == 3, "a third replica is there")
    assert before < {one["replica"] for one in figures()}


def test_the_number_follows_the_queues(deployed: Deployed, asking: Callable[[], list[httpx.Response]]) -> None:
    backbone = {one["backbone"] for one in figures()}.pop()
    busy = Scaling(min_replicas=1, max_replicas=2, target_depth=0.5, upscale_delay=0, downscale_delay=0)
    deploy(deployed.settings.model_copy(update={"backbone": backbone}), busy)
    eventually(lambda: len(figures()) == 2, "two replicas are enough, and needed")
    assert {answer.status_code for answer in asking()} == {200}
    eventually(lambda: len(figures()) == 1, "one is enough where nobody asks")
