"""Settings that a running server reads again."""

from __future__ import annotations

import pytest
from manyhats.api.app import create_app
from manyhats.api.reload import Reloader
from manyhats.api.server import create_server
from manyhats.errors import WrongSetting
from manyhats.settings import RELOADED, Settings

from tests.api.live import Live

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
    one.give_to(runtime.use)
    one.give_to(app.use)
    try:
        one.reload()
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


def test_a_key_that_is_new_is_asked_for(live: Live):
    runtime, before = live.runtime, live.runtime.settings
    one = reloader(before, before.model_copy(update={"api_keys": Settings(api_keys="a-key").api_keys}))
    one.give_to(runtime.use)
    try:
        assert live.client.get("/v1/tasks").status_code == 200
        one.reload()
        assert live.client.get("/v1/tasks").status_code == 401
        answer = live.client.get("/v1/tasks", headers={"Authorization": "Bearer a-key"})
        assert answer.status_code == 200
    finally:
        runtime.use(before)


def test_what_is_wrong_changes_nothing(caplog: pytest.LogCaptureFixture):
    def read() -> Settings:
        raise WrongSetting("setting 'port': it is no number (got 'x')")

    seen: list[Settings] = []
    one = Reloader(Settings(), read)
    one.give_to(seen.append)
    one.reload()
    assert not seen
    assert "setting 'port'" in caplog.text
    # Nor what would open the server to others.
    before = Settings(host="0.0.0.0", api_keys="a", admin_keys="b")
    one = reloader(before, before.model_copy(update={"api_keys": (), "admin_keys": ()}))
    one.reload()
    assert one.settings == before
    assert "there are no keys" in caplog.text


def test_what_a_running_server_cannot_change_is_said(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    one = reloader(Settings(), Settings(slots=7, max_inputs=9))
    one.reload()
    assert (one.settings.slots, one.settings.max_inputs) == (Settings().slots, 9)
    assert "changed: max_inputs" in caplog.text
    assert "at the next start: slots" in caplog.text
