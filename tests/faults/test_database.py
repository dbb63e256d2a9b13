"""Two servers on one PostgreSQL, which goes away and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.live import Files
from tests.faults.conftest import Server, Start
from tests.postgres import Postgres
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
Adapters = Callable[..., Files]


def figure(server: Server, name: str) -> float:
    """A metric without labels."""
    lines = server.client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.mark.parametrize("away", [5.0, pytest.param(30.0, marks=pytest.mark.long)])
def test_servers_on_one_database(
    serve: Start, adapters: Adapters, tmp_path: Path, postgres: Postgres, database_url: str, away: float
) -> None:
    """`away`: seconds in which there is no database, and what was there before is answered all the time."""
    shared = tmp_path / "blobs"
    shared.mkdir()
    both: list[Server] = []
    for name in ("one", "two"):
        own = tmp_path / name / ".manyhats"
        own.mkdir(parents=True)
        (own / "blobs").symlink_to(shared)
        both.append(serve(tmp_path / name, "--database-url", database_url))
    one, two = (server.wait_ready() for server in both)
    assert one.upload("red", adapters(labels=2)).status_code == 201
    answer = wait_until(lambda: (got := two.ask("red")).status_code == 200 and got.json(), "the other one answers")
    assert answer["version"] == 1
    assert two.upload("red", adapters(labels=3)).status_code == 201
    wait_until(lambda: one.ask("red").json()["version"] == 2, "the first one follows")
    assert one.client.post("/v1/tasks/red/pin").status_code == 200
    wait_until(lambda: two.client.get("/v1/tasks/red").json()["pinned"], "the pin is seen")
    assert [figure(server, "manyhats_database_up") for server in both] == [1, 1]
    assert figure(two, "manyhats_changes_followed_total") >= 2

    postgres.stop()
    try:
        end = time.monotonic() + away
        while time.monotonic() < end:
            for server in both:
                assert server.ask("red").status_code == 200
                assert server.client.get("/readyz").status_code == 200
                for refused in (
                    server.upload("red", adapters(labels=4)),
                    server.client.post("/v1/tasks/red/rollback"),
                    server.client.put("/v1/tasks/red", json={"priority": 1}),
                    server.client.delete("/v1/tasks/red"),
                    server.client.get("/v1/audit"),
                ):
                    assert refused.status_code == 503, refused.text
                    assert refused.headers["retry-after"] == "1"
                    assert refused.json()["error"]["type"] == "ServiceUnavailableError"
        assert [figure(server, "manyhats_database_up") for server in both] == [0, 0]
    finally:
        postgres.start()
    wait_until(lambda: one.client.post("/v1/tasks/red/rollback").status_code == 200, "it is back")
    wait_until(lambda: two.ask("red").json()["version"] == 1, "what was changed is seen")
    wait_until(lambda: figure(two, "manyhats_database_up") == 1, "the other one says so")
    two.client.delete("/v1/tasks/red")
    wait_until(lambda: one.ask("red").status_code == 404, "a deletion is seen")
    assert "Traceback" not in one.text + two.text
