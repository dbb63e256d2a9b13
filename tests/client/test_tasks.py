"""Tasks, versions, aliases, residency, and the server's own state."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import manyhats_client as mc
import pytest
from manyhats_client import retries

from tests.client.driver import Driver, Server, error

VERSION = {
    "version": 3,
    "sha256": "ab" * 32,
    "method": "lora",
    "kind": "classify",
    "bytes": 1024,
    "created": "2026-01-02T03:04:05Z",
    "card": {"metric": 0.9},
}
TASK = {
    "name": "spam",
    "kind": "classify",
    "method": "lora",
    "version": 3,
    "residency": "slot",
    "bytes": 1024,
}
DETAILS = TASK | {
    "versions": [VERSION],
    "aliases": {"stable": 3, "canary": [{"version": 2, "weight": 90}, {"version": 3, "weight": 10}]},
    "labels": ["ham", "spam"],
    "template": None,
    "max_tokens": 128,
    "pinned": False,
}


def test_all_pages_of_tasks(client: Driver, server: Server) -> None:
    server.replies = [
        httpx.Response(200, json={"data": [TASK, TASK | {"name": "b"}], "next_page_token": "a+b/="}),
        httpx.Response(200, json={"data": [], "next_page_token": "c"}),
        httpx.Response(200, json={"data": [TASK | {"name": "c"}], "next_page_token": None}),
    ]
    assert [task.name for task in client.tasks(limit=2)] == ["spam", "b", "c"]
    assert [dict(request.url.params) for request in server.requests] == [
        {"limit": "2"},
        {"limit": "2", "page_token": "a+b/="},
        {"limit": "2", "page_token": "c"},
    ]
    server.replies = [httpx.Response(200, json={"data": [TASK]})]
    assert len(client.tasks(search="PA")) == 1
    assert dict(server.requests[-1].url.params) == {"limit": "100", "search": "PA"}


def test_pages_are_fetched_as_they_are_needed() -> None:
    server = Server([httpx.Response(200, json={"data": [TASK], "next_page_token": "more"})])
    with mc.Client("http://hats.test", transport=httpx.MockTransport(server)) as client:
        assert next(client.tasks()).name == "spam"
    assert len(server.requests) == 1


def test_the_audit_log_page_by_page(client: Driver, server: Server) -> None:
    entry = {"id": 2, "time": 1760000000.0, "actor": "ci", "action": "rollback", "task": "spam", "alias": "stable"}
    moved = {"from_versions": [{"version": 2, "weight": 1.0}], "to_versions": [{"version": 1, "weight": 1.0}]}
    server.replies = [
        httpx.Response(200, json={"data": [entry | moved], "next_page_token": "2"}),
        httpx.Response(200, json={"data": [entry | {"id": 1}], "next_page_token": None}),
    ]
    first, second = client.audit(limit=1, task="spam")
    assert (first.actor, first.from_versions[0].version, first.to_versions[0].version) == ("ci", 2, 1)
    assert (second.id, second.to_versions) == (1, [])
    assert [dict(request.url.params) for request in server.requests] == [
        {"limit": "1", "task": "spam"},
        {"limit": "1", "page_token": "2", "task": "spam"},
    ]


def test_a_task_in_detail(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json=DETAILS)]
    task = client.task("spam")
    assert server.asked == ("GET", "/v1/tasks/spam")
    assert type(task) is mc.TaskDetails
    assert task.versions[0].created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert task.aliases["stable"] == 3
    assert [(t.version, t.weight) for t in task.aliases["canary"]] == [(2, 90), (3, 10)]
    assert task.labels == ["ham", "spam"]
    assert task.pinned is False  # kept, though the interface does not promise it


def test_a_task_without_a_stable_version(client: Driver, server: Server) -> None:
    bare = {"name": "spam", "kind": None, "method": None, "version": None, "residency": "disk", "bytes": 0}
    server.replies = [httpx.Response(200, json=bare)]
    assert client.task("spam").version is None


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str, str, Any]] = [
    ("configure", ("spam",), {"labels": ["a"], "priority": 2}, "PUT", "", {"labels": ["a"], "priority": 2}),
    ("configure", ("spam",), {"template": None}, "PUT", "", {"template": None}),
    ("set_alias", ("spam", "stable", 3), {}, "PUT", "/aliases/stable", {"version": 3}),
    (
        "set_alias",
        ("spam", "canary", {2: 90, 3: 10}),
        {},
        "PUT",
        "/aliases/canary",
        {"split": [{"version": 2, "weight": 90}, {"version": 3, "weight": 10}]},
    ),
    (
        "set_alias",
        ("spam", "a/b", [{"version": 2, "weight": 1}]),
        {},
        "PUT",
        "/aliases/a%2Fb",
        {"split": [{"version": 2, "weight": 1}]},
    ),
    (
        "set_alias",
        ("spam", "stable", {2: 90, 3: 10}),
        {"affinity": "X-User", "canary": {"version": 3, "max_error_rate": 0.02}},
        "PUT",
        "/aliases/stable",
        {
            "split": [{"version": 2, "weight": 90}, {"version": 3, "weight": 10}],
            "affinity": "X-User",
            "canary": {"version": 3, "max_error_rate": 0.02},
        },
    ),
    (
        "set_alias",
        ("spam", "stable", 2),
        {"shadow": {"version": 3, "fraction": 0.1}},
        "PUT",
        "/aliases/stable",
        {"version": 2, "shadow": {"version": 3, "fraction": 0.1}},
    ),
    ("delete_alias", ("spam", "canary"), {}, "DELETE", "/aliases/canary", None),
    ("rollback", ("spam",), {}, "POST", "/rollback", None),
    ("rollback", ("spam", 2), {}, "POST", "/rollback", {"version": 2}),
    ("load", ("spam",), {}, "POST", "/load", None),
    ("unload", ("spam",), {}, "POST", "/unload", None),
    ("pin", ("spam",), {}, "POST", "/pin", None),
    ("unpin", ("spam",), {}, "POST", "/unpin", None),
    ("lift", ("spam",), {}, "POST", "/lift", None),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "method", "path", "body"), CALLS)
@pytest.mark.parametrize("answer", [TASK, DETAILS], ids=["summary", "details"])
def test_calls_that_answer_with_the_task(
    client: Driver,
    server: Server,
    answer: Any,
    name: str,
    args: Any,
    kwargs: Any,
    method: str,
    path: str,
    body: Any,
) -> None:
    server.replies = [httpx.Response(200, json=answer)]
    task = getattr(client, name)(*args, **kwargs)
    assert server.asked == (method, f"/v1/tasks/spam{path}")
    assert server.body == body
    assert (task.name, task.version, task.residency) == ("spam", 3, "slot")


@pytest.mark.parametrize(
    ("name", "args", "path"),
    [("delete", ("a b",), "/v1/tasks/a%20b"), ("delete_version", ("spam", 2), "/v1/tasks/spam/versions/2")],
)
def test_deleting(client: Driver, server: Server, name: str, args: Any, path: str) -> None:
    server.replies = [httpx.Response(204)]
    assert getattr(client, name)(*args) is None
    assert server.asked == ("DELETE", path)


def test_a_version(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json=VERSION | {"rank": 8})]
    version = client.version("spam", 3)
    assert server.asked == ("GET", "/v1/tasks/spam/versions/3")
    assert (version.version, version.card, version.rank) == (3, {"metric": 0.9}, 8)


# ---- downloads


@pytest.mark.parametrize("into_folder", [False, True])
def test_a_download(client: Driver, server: Server, tmp_path: Path, into_folder: bool) -> None:
    data = bytes(range(256)) * 1000
    server.replies = [httpx.Response(200, content=data, headers={"Content-Type": "application/gzip"})]
    path = client.download("spam", 3, tmp_path if into_folder else tmp_path / "mine.tgz")
    assert server.asked == ("GET", "/v1/tasks/spam/versions/3/download")
    assert path == tmp_path / ("spam-3.tar.gz" if into_folder else "mine.tgz")
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_that_is_refused_leaves_nothing(client: Driver, server: Server, tmp_path: Path) -> None:
    server.replies = [error(404, "no version 9")]
    with pytest.raises(mc.NotFound, match="no version 9"):
        client.download("spam", 9, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- the server


def test_health(client: Driver, server: Server) -> None:
    server.replies = [httpx.Response(200, json={"status": "ok"})]
    assert client.health().status == "ok"
    assert server.asked == ("GET", "/healthz")


def test_ready(client: Driver, server: Server) -> None:
    server.replies = [error(503, "starting"), httpx.Response(200, json={"status": "ready"})]
    assert client.ready() is False
    assert len(server.requests) == 1  # a 503 is the answer here: nothing is tried again
    assert client.ready() is True
    assert server.asked == ("GET", "/readyz")


def test_waiting_for_a_server_that_starts(client: Driver, server: Server) -> None:
    refused, slow = httpx.ConnectError("refused"), httpx.ReadTimeout("slow")
    server.replies = [refused, refused, error(503, "starting"), slow, httpx.Response(200, json={})]
    assert client.wait_ready(60) is None
    assert len(server.requests) == 5
    assert client.pauses == [0.1, 0.2, 0.4, 0.8]


def test_waiting_ends(client: Driver, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.replies = [error(503, "starting")]
    start = 1000.0
    monkeypatch.setattr(retries.time, "monotonic", lambda: start + sum(client.pauses))
    with pytest.raises(mc.Timeout, match="not ready within 3 seconds: starting") as raised:
        client.wait_ready(3)
    assert isinstance(raised.value.__cause__, mc.ServerNotReady)
    assert sum(client.pauses) == pytest.approx(3)


def test_waiting_for_what_will_never_be_ready(client: Driver, server: Server) -> None:
    server.replies = [error(404, "there is no route GET /readyz")]
    with pytest.raises(mc.NotFound):
        client.wait_ready(60)
    assert client.pauses == []
