"""More clients than there can be open files, and what the log says of them."""

from __future__ import annotations

import resource
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.faults.conftest import Start
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits cannot be set here")


def test_more_clients_than_files_get_a_clear_answer(serve: Start, adapters):
    server = serve().wait_ready()
    assert server.upload("t", adapters()).status_code == 201
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (256, 256))
    where = urlsplit(str(server.client.base_url))
    silent: list[socket.socket] = []
    for _ in range(400):
        silent.append(socket.create_connection((where.hostname, where.port), timeout=60))
    with httpx.Client(base_url=server.client.base_url, timeout=60) as late:
        answer = late.post("/v1/tasks/t/predict", json={"inputs": "w1"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "connections" in answer.json()["error"]["message"]
        for one in silent:
            one.close()

        def back() -> bool:
            return late.post("/v1/tasks/t/predict", json={"inputs": "w1"}).status_code == 200

        wait_until(back, "there is room again")
    assert server.upload("t2", adapters()).status_code == 201
    assert "out of system resource" not in server.text
    assert server.text.count("max_connections") <= 20
    assert len(server.text) < 50_000
