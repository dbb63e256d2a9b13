"""Settings that a running server reads again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from manyhats.api.app import create_app
from manyhats.api.reload import Reloader
from manyhats.api.server import create_server
from manyhats.errors import WrongSetting
from manyhats.settings import RELOADED, Settings

from tests.api.live import Live
from tests.waiting import PATIENCE

# Another value of each, so that a new one that is forgotten here is seen.
OTHERS = {
    **dict.fromkeys(("request_timeout", "drain_timeout", "drain_delay", "scan_interval"), 7.5),
    **dict.fromkeys(("header_timeout", "body_timeout", "send_timeout", "keep_alive"), 6.5),
    **dict.fromkeys(("queue_per_task", "queue_total", "max_inputs", "max_characters", "max_values", "max_uploads"), 77),
    **dict.fromkeys(
        (
            "upload_threads",
            "max_files",
            "max_rank",
            "max_versions",
            "max_tasks",
            "max_connections",
            "max_client_connections",
        ),
        66,
    ),
    **dict.fromkeys(("max_body", "max_upload", "max_unpacked", "body_rate"), 123_456),
    "adapter_folders": ("/somewhere",),
    "allowed_sources": ("hub:somebody/*",),
    "hub_hosts": ("files.example",),
    "source_timeout": 7.5,
    "api_keys": ("one",),
    "admin_keys": ("two",),
    "allowed_hosts": ("here.example",),
    "metrics_names": "nobody",
    "log_level": "debug",
}


def reloader(before: Settings, after: Settings) -> Reloader:
    return Reloader(before, lambda: after)


def test_every_setting_that_is_read_again_is_a_setting():
    assert set(Settings.model_fields) >= RELOADED
    assert set(OTHERS) == RELOADED


def test_all_of_them_reach_whoever_holds_them(live: Live):
    runtime = live.runtime
    before = runtime.settings
    app = create_app(runtime)
    one = reloader(before, Settings.model_validate(before.model_dump() | OTHERS))
    server = create_server(app, before, drain=app.drain, reloader=one)
    one.give_to(runtime.access.use, in_thread=True)
    one.give_to(runtime.use)
    one.give_to(app.use)
    try:
        asyncio.run(one.reload())
        for name in RELOADED:
            assert getattr(runtime.settings, name) == getattr(Settings(**OTHERS), name), name
        assert (runtime.service.limits.max_inputs, runtime.service.limits.max_characters) == (77, 77)
        assert runtime.service.limits.timeout == 7.5
        admission = runtime.engine._admission
        assert (admission.task_limit, admission.total_limit) == (77, 77)
        assert (runtime.registry.max_tasks, runtime.registry.max_versions) == (66, 66)
        assert runtime.threads.checking.total_tokens == 66
        assert (app.drain.delay, app.drain.timeout) == (7.5, 7.5)
        limits = server.connection_limits
        assert (limits.max_open(), limits.head, limits.body, limits.body_rate) == (66, 6.5, 6.5, 123_456)
        assert (limits.send, limits.keep_alive) == (6.5, 6.5)
        assert (limits.json_bytes, limits.upload_bytes) == (123_456, 123_456)
        assert (app.gate._json.limit, app.gate._uploads.limit) == (123_456, 123_456 + (1 << 20))
    finally:
        runtime.use(before)
        runtime.access.use(before)


def test_a_key_that_is_new_is_asked_for(live: Live):
    runtime, before = live.runtime, live.runtime.settings
    one = reloader(before, before.model_copy(update={"api_keys": Settings(api_keys="a-key").api_keys}))
    one.give_to(runtime.access.use, in_thread=True)
    try:
        assert live.client.get("/v1/tasks").status_code == 200
        asyncio.run(one.reload())
        assert live.client.get("/v1/tasks").status_code == 401
        answer = live.client.get("/v1/tasks", headers={"Authorization": "Bearer a-key"})
        assert answer.status_code == 200
    finally:
        runtime.access.use(before)


def test_what_is_wrong_changes_nothing(caplog: pytest.LogCaptureFixture):
    def read() -> Settings:
        raise WrongSetting("setting 'port': it is no number (got 'x')")

    seen: list[Settings] = []
    one = Reloader(Settings(), read)
    one.give_to(seen.append)
    asyncio.run(one.reload())
    assert not seen
    assert "setting 'port'" in caplog.text
    # Nor what would open the server to others.
    before = Settings(host="0.0.0.0", api_keys="a", admin_keys="b")
    one = reloader(before, before.model_copy(update={"api_keys": (), "admin_keys": ()}))
    asyncio.run(one.reload())
    assert one.settings == before
    assert "there are no keys" in caplog.text


def test_what_a_running_server_cannot_change_is_said(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    one = reloader(Settings(), Settings(slots=7, max_inputs=9))
    asyncio.run(one.reload())
    assert (one.settings.slots, one.settings.max_inputs) == (Settings().slots, 9)
    assert "changed: max_inputs" in caplog.text
    assert "at the next start: slots" in caplog.text


class SlowReader:
    """Settings that are read only when a reading is let through, with what was written by then."""

    def __init__(self) -> None:
        self.written = 1
        self.begun, self.threads = 0, set[int]()
        self.proceed = threading.Semaphore(0)

    def read(self) -> Settings:
        self.begun += 1
        self.threads.add(threading.get_ident())
        written = self.written
        assert self.proceed.acquire(timeout=PATIENCE)
        return Settings(max_inputs=written)


async def turns_until(reached: Callable[[], bool]) -> None:
    """Lets the event loop go on until something is reached."""
    async with asyncio.timeout(PATIENCE):
        while not reached():
            await asyncio.sleep(0.001)


def test_a_slow_reading_holds_up_nothing_and_the_last_one_asked_for_holds():
    slow, seen = SlowReader(), list[int]()
    one = Reloader(Settings(), slow.read)
    one.give_to(lambda settings: seen.append(settings.max_inputs))

    async def run() -> None:
        one.ask()
        await turns_until(lambda: slow.begun == 1)  # the loop goes on while it reads
        for written in (2, 3, 4):
            slow.written = written
            one.ask()
        for _ in range(100):
            await asyncio.sleep(0)
        assert (slow.begun, seen) == (1, [])  # one at a time
        slow.proceed.release()
        await turns_until(lambda: slow.begun == 2)
        slow.proceed.release()
        await turns_until(lambda: len(seen) == 2)
        await turns_until(lambda: one._task is not None and one._task.done())

    asyncio.run(run())
    assert (slow.begun, seen) == (2, [1, 4])
    assert threading.get_ident() not in slow.threads


def test_what_a_holder_raises_is_logged_and_the_next_reading_is_made(caplog: pytest.LogCaptureFixture):
    one = Reloader(Settings(), Settings)
    calls = list[int]()

    def failing(settings: Settings) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no such disk")

    one.give_to(failing, in_thread=True)

    async def run() -> None:
        one.ask()
        await turns_until(lambda: one._task is not None and one._task.done())
        one.ask()
        await turns_until(lambda: len(calls) == 2)

    asyncio.run(run())
    assert "no such disk" in caplog.text


def test_a_stop_waits_for_no_reading():
    slow = SlowReader()
    one = Reloader(Settings(), slow.read)

    async def run() -> None:
        one.ask()
        await turns_until(lambda: slow.begun == 1)
        one.stop()
        await turns_until(lambda: one._task is not None and one._task.done())
        slow.proceed.release()  # its thread ends with the loop

    asyncio.run(run())
    assert slow.begun == 1
