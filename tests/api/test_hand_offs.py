"""How often a request changes threads. Each change costs its request time, and more where the model computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio.to_thread
import pytest
import uvloop
from manyhats.engine.engine import Engine

from tests import tiny
from tests.api.generating import CHAT, events
from tests.api.live import Live, at_once, serving
from tests.api.test_pressure import held
from tests.waiting import wait_until

HOUR = 3600.0


class HandOffs(Counter[str]):
    """Counts what gives work to another thread: `pool` (anyio's threads), `executor`, `engine` (its inbox), `wake_up`
    (of the event loop)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._watch(monkeypatch, anyio.to_thread, "run_sync", "pool")
        self._watch(monkeypatch, ThreadPoolExecutor, "submit", "executor")
        self._watch(monkeypatch, Engine, "submit", "engine")
        self._watch(monkeypatch, uvloop.Loop, "call_soon_threadsafe", "wake_up")

    def _watch(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, kind: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            self[kind] += 1
            return original(*args, **options)

        monkeypatch.setattr(owner, name, counted)


@pytest.fixture(scope="module")
def quiet(served, tmp_path_factory) -> Iterator[Live]:
    """A server that does not look for copied folders meanwhile."""
    with serving(served, tmp_path_factory.mktemp("store"), scan_interval=HOUR, api_keys=["a key"]) as running:
        running.client.headers["Authorization"] = "Bearer a key"
        yield running


@pytest.fixture(scope="module")
def quiet_decoder(base_folder, tmp_path_factory) -> Iterator[Live]:
    """The same with a decoder."""
    with serving(tiny.load(base_folder("llama")), tmp_path_factory.mktemp("store"), scan_interval=HOUR) as running:
        yield running


@pytest.mark.parametrize("kind", ["classify", "regress", "tokens", "embed"])
def test_a_short_request_changes_threads_twice(quiet: Live, kind, monkeypatch):
    task = quiet.add(kind=kind)
    quiet.outputs(task, "w1 w2")
    counts = HandOffs(monkeypatch)
    quiet.outputs(task, "w1 w2 w3")
    assert counts == {"engine": 1, "wake_up": 1}


def test_so_does_one_call_for_several_tasks(quiet: Live, monkeypatch):
    tasks = [quiet.add() for _ in range(3)]
    for task in tasks:
        quiet.outputs(task, "w1")
    counts = HandOffs(monkeypatch)
    answer = quiet.client.post("/v1/predict", json={"tasks": tasks, "inputs": ["w1 w2 w3", "w4"]})
    assert answer.status_code == 200
    assert counts == {"engine": 1, "wake_up": 1}


def test_what_is_long_is_tokenised_and_rendered_beside_the_event_loop(quiet: Live, monkeypatch):
    task = quiet.add(kind="embed")
    quiet.outputs(task, "w1")
    counts = HandOffs(monkeypatch)
    quiet.outputs(task, " ".join(["w1"] * 2000), truncate=True)
    assert counts["pool"] == 1
    quiet.outputs(task, ["w1 w2"] * 20, pooling="none")
    assert counts["pool"] >= 2


def test_a_short_prompt_is_continued_without_a_pool_of_threads(quiet_decoder: Live, monkeypatch):
    task = quiet_decoder.add("text", kind="generate")
    quiet_decoder.outputs(task, "w1")
    counts = HandOffs(monkeypatch)
    (answer,) = quiet_decoder.outputs(task, "w1 w2 w3", max_new_tokens=5)
    assert len(answer["tokens"]) <= 5
    assert counts == {"engine": 1, "wake_up": 1}


def test_a_streamed_chat_wakes_the_event_loop_once_a_step(quiet_decoder: Live, monkeypatch):
    task = quiet_decoder.add("text", kind="generate")
    assert quiet_decoder.client.put(f"/v1/tasks/{task}", json={"chat_template": CHAT}).status_code == 200
    body = {
        "model": task,
        "messages": [{"role": "user", "content": "w1 w2"}],
        "max_tokens": 6,
        "ignore_eos": True,
        "n": 4,
        "temperature": 1.0,
        "stream": True,
    }
    counts = HandOffs(monkeypatch)
    with quiet_decoder.client.stream("POST", "/v1/chat/completions", json=body) as response:
        read = events(response)
    finished = [one for one in read[:-1] if one["choices"] and one["choices"][0]["finish_reason"]]
    assert len(finished) == 4
    # The template is rendered in a process that is waited for, in a thread; its result comes by a wake-up too. Then
    # all four texts' tokens of a step come together, and the end with those of the last one.
    assert counts["pool"] == 1
    assert counts["engine"] == 1
    assert not counts["executor"]
    assert counts["wake_up"] <= 1 + 6


def test_many_requests_of_a_batch_are_answered_by_one_wake_up(start, gate, monkeypatch):
    with start(scan_interval=HOUR) as live:
        running = held(live, gate)
        clients = [live.new_client() for _ in range(16)]
        before = live.runtime.service.dispatcher.wake_ups

        def ask(client: Any) -> int:
            return client.post("/v1/tasks/base/predict", json={"inputs": "w1 w2"}).status_code

        def let() -> int:
            wait_until(lambda: sum(live.runtime.engine.waiting().values()) == 16, "all wait")
            gate.let_one_pass()
            status: int = running.result().status_code  # else one wake-up may bring the answers of both batches
            gate.open()
            return status

        statuses = at_once(*(lambda client=client: ask(client) for client in clients), let)
        assert statuses == [200] * 17
        assert gate.batches == [1, 16]
        assert live.runtime.service.dispatcher.wake_ups - before == 2
        for client in clients:
            client.close()
