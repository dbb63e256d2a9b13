"""Adapters that fail, threads that die, memory that runs out: each fails its own requests, is seen, and is survived."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from manyhats.core.kinds.classify import Classify
from manyhats.engine.engine import Engine
from manyhats.engine.watchdog import Part, Watchdog
from manyhats.registry.imports import FolderImports
from manyhats.registry.loading_threads import LoadingThreads
from manyhats.serving.dispatch import Dispatcher
from manyhats.serving.scanner import Scanner
from safetensors.numpy import load, save

from tests.api.conftest import start as start
from tests.api.live import Files, Live, adapter_files, assert_error, close
from tests.api.test_operations import figures
from tests.faults.conftest import Start
from tests.waiting import PATIENCE, wait_until

DIES = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def overflowing(files: Files) -> Files:
    """The adapter with weights that are finite, and so large that what they give is not."""
    changed = {}
    for name, data in files.items():
        if name.endswith(".safetensors"):
            data = save({key: (array * 0 + 3e37).astype(array.dtype) for key, array in load(data).items()})
        changed[name] = data
    return changed


# ---- faulty adapters


def test_an_adapter_that_is_not_finite_is_quarantined_until_it_is_lifted(start: Any) -> None:
    with start(max_faults=3) as live:
        other = live.add("other")
        expected = live.outputs(other)
        good = adapter_files(live.backbone)
        assert live.upload("bad", overflowing(good)).status_code == 201
        for _ in range(3):
            both = live.client.post("/v1/predict", json={"tasks": ["bad", other], "inputs": "w1 w2 w3"}).json()
            assert "not finite" in json.dumps(both)
            error = assert_error(live.ask("bad"), 500, "not finite|quarantined")
            if error["type"] == "AdapterQuarantinedError":
                break
        passes = live.runtime.metrics.recent_batches.last(1)[0][1].id
        error = assert_error(live.ask("bad"), 500, "bad@1 is quarantined: it failed 3 times", "manyhats lift bad")
        assert error["type"] == "AdapterQuarantinedError"
        assert live.runtime.metrics.recent_batches.last(1)[0][1].id == passes  # it never came to the model
        shown = live.client.get("/v1/tasks/bad").json()
        assert "failed 3 times" in shown["quarantined"] == shown["versions"][0]["quarantined"]
        assert shown["damaged"] is shown["versions"][0]["damaged"] is False
        listed = {row["name"]: row for row in live.client.get("/v1/tasks").json()["data"]}
        assert listed["bad"]["quarantined"] == shown["quarantined"]
        assert "quarantined" not in listed[other]
        found = figures(live)
        assert found["manyhats_quarantined_versions"] == 1
        assert found["manyhats_quarantined|task=bad|version=1"] == 1
        assert found["manyhats_adapter_faults_total"] == 3
        assert found["manyhats_adapter_quarantines_total"] == 1
        assert close(live.outputs(other), expected)
        # another version is answered at once; the first one still is not
        assert live.upload("bad", good).status_code == 201
        assert live.outputs("bad")
        assert "quarantined" not in live.client.get("/v1/tasks/bad").json()
        assert_error(live.ask("bad@1"), 500, "quarantined")
        live.client.post("/v1/tasks/bad/rollback", json={"version": 1})
        assert_error(live.ask("bad"), 500, "quarantined")
        assert live.client.post("/v1/tasks/bad/lift").status_code == 200
        assert_error(live.ask("bad"), 500, "not finite")
        assert figures(live)["manyhats_quarantined_versions"] == 0
        live.wait_idle()


def broken_binding(monkeypatch: pytest.MonkeyPatch, broken: list[bool], live: Live) -> str:
    bind = live.runtime.adapter_cache._bind

    def binding(adapter: Any) -> Any:
        if broken:
            raise RuntimeError("binding is broken")
        return bind(adapter)

    monkeypatch.setattr(live.runtime.adapter_cache, "_bind", binding)
    return "cannot be loaded"


def broken_rendering(monkeypatch: pytest.MonkeyPatch, broken: list[bool], live: Live) -> str:
    render = Classify.render

    def rendering(self: Any, output: Any, *given: Any) -> Any:
        if broken and output.shape[-1] == 7:
            raise KeyError("rendering is broken")
        return render(self, output, *given)

    monkeypatch.setattr(Classify, "render", rendering)
    return "cannot be rendered"


@pytest.mark.parametrize("plant", [broken_binding, broken_rendering])
def test_an_adapter_that_raises_is_quarantined(
    start: Any, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., str]
) -> None:
    with start(max_faults=3) as live:
        other = live.add("other")
        expected = live.outputs(other)
        broken = [True]
        message = plant(monkeypatch, broken, live)
        live.upload("bad", adapter_files(live.backbone, labels=7))
        for _ in range(3):
            error = assert_error(live.ask("bad"), 500, message)
            assert error["type"] == "AdapterFailureError"
            assert "is broken" not in error["message"]
        assert_error(live.ask("bad"), 500, "quarantined")
        assert close(live.outputs(other), expected)
        broken.clear()
        assert_error(live.ask("bad"), 500, "quarantined")
        live.client.post("/v1/tasks/bad/lift")
        assert live.outputs("bad")
        live.wait_idle()


# ---- parts that die


class Armed:
    """A fault that is to happen once; `at`: when it did."""

    def __init__(self) -> None:
        self.at = 0.0
        self._left: list[bool] = []

    def set(self) -> None:
        self._left.append(True)

    def is_set(self) -> bool:
        return bool(self._left)

    def take(self) -> bool:
        """Whether it is to happen now, in this thread."""
        try:
            self._left.pop()
        except IndexError:
            return False
        self.at = time.monotonic()
        return True


def kill_model(monkeypatch: pytest.MonkeyPatch, armed: Armed) -> str:
    recover, step = Engine._recover, Engine.step

    def dying(self: Engine, error: BaseException) -> Any:
        if armed.take():
            raise SystemExit("the model's thread dies")
        return recover(self, error)

    def failing(self: Engine) -> bool:
        if armed.is_set():
            raise SystemExit("a step ends the thread")
        return step(self)

    monkeypatch.setattr(Engine, "_recover", dying)
    monkeypatch.setattr(Engine, "step", failing)
    return "the model's thread"


def kill_loader(monkeypatch: pytest.MonkeyPatch, armed: Armed) -> str:
    following = LoadingThreads._next

    def dying(self: LoadingThreads, own: threading.Thread) -> Any:
        work = following(self, own)
        if work is not None and armed.take():
            raise SystemExit("a loading thread dies")
        return work

    monkeypatch.setattr(LoadingThreads, "_next", dying)
    return "the loading of adapters"


def kill_scanner(monkeypatch: pytest.MonkeyPatch, armed: Armed) -> str:
    scan = Scanner.scan

    def dying(self: Scanner) -> bool:
        if armed.take():
            raise RuntimeError("the scan's task ends")
        return scan(self)

    monkeypatch.setattr(Scanner, "scan", dying)
    return "the scan for adapters"


def lose_wake_up(monkeypatch: pytest.MonkeyPatch, armed: Armed) -> str:
    run = Dispatcher._run

    def lost(self: Dispatcher) -> None:
        if armed.take():
            return
        run(self)

    monkeypatch.setattr(Dispatcher, "_run", lost)
    return "the event loop"


@DIES
@pytest.mark.parametrize("plant", [kill_model, kill_loader, kill_scanner, lose_wake_up])
def test_a_part_that_dies_is_noticed_and_the_queue_is_answered(
    start: Any, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    armed = Armed()
    part = plant(monkeypatch, armed)
    with start(scan_interval=0.1) as live:
        tasks = [live.add() for _ in range(4)]
        expected = [live.outputs(task) for task in tasks]
        for task in tasks:
            live.client.post(f"/v1/tasks/{task}/unload")
        ready: list[bool] = []  # just before each revival
        revive = Watchdog._revive

        def seen(self: Watchdog, dead: Part) -> None:
            ready.append(live.runtime.ready)
            revive(self, dead)

        monkeypatch.setattr(Watchdog, "_revive", seen)
        answers: list[Any] = [None] * 12

        def ask(i: int) -> None:
            with live.new_client() as client:
                body = {"inputs": ["w1 w2 w3", "w4 w5", "w6 w7 w8 w9 w10"]}
                answers[i] = client.post(f"/v1/tasks/{tasks[i % 4]}/predict", json=body)

        armed.set()
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        watchdog = live.runtime.watchdog
        wait_until(lambda: watchdog.deaths[part] == 1, "its death is noticed")
        noticed = time.monotonic() - armed.at
        for thread in threads:
            thread.join(PATIENCE)
        wait_until(lambda: live.runtime.ready, "it is ready again")
        assert ready == [False]  # readiness followed
        request.node.user_properties.append(("noticed", noticed))
        failed = [answer for answer in answers if answer.status_code != 200]
        # only what had begun may fail: what the loading thread had in its hands
        assert len(failed) <= (3 if plant is kill_loader else 0), [answer.text for answer in failed]
        for i, answer in enumerate(answers):
            if answer.status_code == 200:
                assert close(answer.json()["outputs"], expected[i % 4])
        for task, right in zip(tasks, expected, strict=True):
            assert close(live.outputs(task), right)
        found = figures(live)
        assert found[f"manyhats_part_deaths_total|part={part}"] == 1
        assert found[f"manyhats_part_well|part={part}"] == 1
        assert live.client.get("/readyz").status_code == 200
        assert live.runtime.adapter_cache._space.binding == 0
        live.wait_idle()


@pytest.mark.parametrize("error", [SystemExit("the loader ends"), KeyboardInterrupt(), RuntimeError("it raises")])
@pytest.mark.parametrize("where", ["_load", "_finish"])
def test_what_a_loading_thread_raises_is_told_to_those_who_wait(
    start: Any, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    with start() as live:
        task = live.add()
        expected = live.outputs(task)
        live.client.post(f"/v1/tasks/{task}/unload")
        cache = live.runtime.adapter_cache
        original, broken = getattr(cache, where), [True]

        def breaking(*given: Any) -> Any:
            if broken:
                broken.clear()
                raise error
            return original(*given)

        monkeypatch.setattr(cache, where, breaking)
        assert_error(live.ask(task), 500, "cannot be loaded")
        assert close(live.outputs(task), expected)
        assert live.runtime.ready
        assert not cache._load_jobs
        assert cache._space.binding == 0
        live.wait_idle()


@pytest.mark.parametrize("error", [SystemExit("/the/scan ends the thread"), OSError(5, "no disk", "/a/path")])
def test_a_scan_that_raises_is_seen_and_goes_on(
    start: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    broken: list[bool] = []
    scan = FolderImports.scan

    def failing(self: FolderImports) -> Any:
        if broken:
            raise error
        return scan(self)

    monkeypatch.setattr(FolderImports, "scan", failing)
    with start(scan_interval=0.05) as live:
        task = live.add()
        expected = live.outputs(task)
        broken.append(True)
        wait_until(lambda: not live.runtime.ready, "readiness follows")
        told = assert_error(live.client.get("/readyz"), 503, "recovering: the scan for adapters fails: ")
        assert type(error).__name__ in told["message"]
        assert "/" not in told["message"].partition("fails: ")[2]  # paths stay in the log
        wait_until(
            lambda: figures(live)["manyhats_part_failures_total|part=the scan for adapters"] == 1, "counted once"
        )
        assert figures(live)["manyhats_part_well|part=the scan for adapters"] == 0
        assert close(live.outputs(task), expected)  # what works goes on
        broken.clear()
        wait_until(lambda: live.runtime.ready, "it is ready again")
        found = figures(live)
        assert found["manyhats_part_well|part=the scan for adapters"] == 1
        assert found["manyhats_part_deaths_total|part=the scan for adapters"] == 0
        assert live.runtime.scanner.alive


def test_a_scan_that_hangs_is_noticed(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proceed, scan, armed = threading.Event(), FolderImports.scan, threading.Event()

    def hanging(self: FolderImports) -> Any:
        if armed.is_set():
            proceed.wait(PATIENCE)
        return scan(self)

    monkeypatch.setattr(FolderImports, "scan", hanging)
    with start(scan_interval=0.05, stall_timeout=0.3) as live:
        armed.set()
        wait_until(lambda: not live.runtime.ready, "it is noticed")
        error = assert_error(live.client.get("/readyz"), 503, "recovering: the scan for adapters hangs")
        assert error["type"] == "ServiceUnavailableError"
        assert live.ask("base").status_code == 200  # what works goes on
        armed.clear()
        proceed.set()
        wait_until(lambda: live.runtime.ready, "it is ready again")


def test_loading_that_hangs_is_noticed(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(stall_timeout=0.3) as live:
        one, other = live.add(), live.add()
        expected = live.outputs(one)
        live.client.post(f"/v1/tasks/{one}/unload")
        proceed, load = threading.Event(), live.runtime.adapter_cache._load

        def hanging(version: Any) -> Any:
            proceed.wait(PATIENCE)
            return load(version)

        monkeypatch.setattr(live.runtime.adapter_cache, "_load", hanging)
        asking = threading.Thread(target=lambda: live.ask(one))
        asking.start()
        wait_until(lambda: not live.runtime.ready, "it is noticed")
        assert "the loading of adapters hangs" in live.runtime.condition
        with live.new_client() as client:
            assert client.post(f"/v1/tasks/{other}/predict", json={"inputs": "w1"}).status_code == 200
        proceed.set()
        asking.join(PATIENCE)
        wait_until(lambda: live.runtime.ready, "it is ready again")
        assert close(live.outputs(one), expected)


# ---- a thread that hangs for good

_HANGS = """
import threading
from manyhats.cli import main
from manyhats.engine.runner import Runner

execute = Runner.execute
passes = []

def hanging(runner, batch):
    passes.append(1)
    if len(passes) > 1:
        threading.Event().wait()
    return execute(runner, batch)

Runner.execute = hanging
main()
"""


@pytest.mark.slow
def test_the_process_ends_where_a_pass_never_does(serve: Start) -> None:
    limits = ("--stall-timeout", "0.5", "--stall-limit", "2", "--drain-timeout", "0")
    server = serve(None, *limits, script=_HANGS).wait_ready()
    assert server.ask("base").status_code == 200

    def ask() -> None:
        with suppress(httpx.HTTPError), httpx.Client(base_url=server.client.base_url, timeout=PATIENCE) as client:
            client.post("/v1/tasks/base/predict", json={"inputs": "w1"})

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: "the model's thread hangs; the server is not ready" in server.text, "it is noticed")
    assert server.end() == 1
    asking.join(PATIENCE)
    assert "the model's thread has done one thing for" in server.text
