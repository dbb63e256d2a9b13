"""A server whose adapters' files are in S3, which fails and stalls."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.api.live import TEXTS, Live, adapter_files
from tests.s3 import Endpoint
from tests.waiting import wait_until

Start = Callable[..., AbstractContextManager[Live]]


@pytest.fixture
def server(start: Start, s3: Endpoint) -> Iterator[Live]:
    """One over an empty bucket, which gives the bucket half a second."""
    with start(blobs_url=s3.bucket(), blob_timeout=0.5) as running:
        yield running


def forget(server: Live, task: str) -> None:
    """The task's adapter is neither in memory nor in the cache from now on."""
    sha = server.runtime.registry.resolve(task).sha256
    server.runtime.adapter_cache.unload(sha)
    server.runtime.registry.blobs.cache.drop(sha)


def test_tasks_answer_from_the_bucket(server: Live, s3: Endpoint) -> None:
    task = server.add()
    before = server.outputs(task)
    forget(server, task)
    assert server.outputs(task) == before
    metrics = server.client.get("/metrics").text
    assert 'manyhats_blob_requests_total{result="miss"} 1.0' in metrics
    assert "manyhats_blob_fetch_seconds_count 1.0" in metrics
    download = server.client.get(f"/v1/tasks/{task}/versions/1/download")
    assert download.status_code == 200
    assert server.client.delete(f"/v1/tasks/{task}").status_code == 204


def test_half_of_the_calls_fail(start: Start, s3: Endpoint) -> None:
    with start(blobs_url=s3.bucket(), blob_timeout=20) as server:
        numbers = itertools.count()
        s3.fault = lambda method, path: "error" if next(numbers) % 2 else None
        tasks = [server.add() for _ in range(4)]
        for task in tasks:
            forget(server, task)
            assert server.ask(task).status_code == 200
        assert 'manyhats_blob_errors_total{operation="get"} 0.0' in server.client.get("/metrics").text


@pytest.mark.parametrize("fault", ["error", "stall"])
def test_without_the_store_resident_and_cached_tasks_answer_and_cold_ones_get_503(
    server: Live, s3: Endpoint, fault: str
) -> None:
    resident, cached, *cold = [server.add() for _ in range(7)]
    for task in cold:
        forget(server, task)
    server.runtime.adapter_cache.unload(server.runtime.registry.resolve(cached).sha256)
    s3.fault = lambda method, path: fault
    answers: dict[str, int] = {}

    def ask(task: str) -> None:
        with server.new_client() as client:
            answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": TEXTS})
            answers[task] = answer.status_code
            assert int(answer.headers["Retry-After"]) >= 1

    threads = [threading.Thread(target=ask, args=(task,)) for task in cold]
    for thread in threads:
        thread.start()
    wait_until(lambda: any(method == "GET" for method, _ in s3.requests), "a fetch has begun")
    for _ in range(3):
        assert server.ask(resident).status_code == 200
        assert server.ask(cached).status_code == 200  # loading threads are not held up by fetches
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys(cold, 503)
    assert server.client.get("/readyz").status_code == 200
    s3.fault = lambda method, path: None
    s3.released.set()
    server.runtime.registry.blobs._bucket._paused_until = 0.0
    for task in cold:
        assert server.ask(task).status_code == 200


def test_an_upload_that_the_store_does_not_take_gets_503_and_leaves_nothing(server: Live, s3: Endpoint) -> None:
    s3.fault = lambda method, path: "error"
    answer = server.upload("spam", adapter_files(server.backbone))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.client.get("/v1/tasks/spam").status_code == 404
    wait_until(lambda: not server.staged, "staging is empty")


def test_another_servers_cache_is_empty(start: Start, s3: Endpoint, tmp_path: Path) -> None:
    """A restart with an empty cache fetches what is asked for."""
    address = s3.bucket()
    with start(tmp_path / "store", blobs_url=address) as server:
        task = server.add()
        before = server.outputs(task)
        cache = server.hidden / "cache"
    for folder in cache.iterdir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    with start(tmp_path / "store", blobs_url=address) as server:
        assert server.outputs(task) == before
