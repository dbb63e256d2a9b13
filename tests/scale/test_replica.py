"""A replica's application, asked by messages; without Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from manyhats.errors import EngineFailure
from manyhats.formats.writer import write_adapter
from manyhats.scale.front import Front, Limits, Transport
from manyhats.scale.replica import Replica
from manyhats.settings import Settings

from tests import tiny

LIMITS = Limits(max_body=1 << 20, max_upload=1 << 20, request_timeout=60.0)


async def stored(part: bytes) -> Any:
    return asyncio.sleep(0, part)


@pytest.fixture
def with_replica(
    base_folder: Callable[[str], Path], tmp_path: Path
) -> Callable[[Callable[..., Awaitable[None]]], None]:
    """Runs something with a replica over a store with two tasks, and with a client of a front before it."""
    folder = base_folder("bert")
    backbone = tiny.load(folder)
    for seed, name in enumerate(("spam", "topic")):
        (tmp_path / "store" / name).mkdir(parents=True)
        write_adapter(tiny.adapter(backbone, "lora", seed, labels=3), tmp_path / "store" / name, backbone)

    def run(use: Callable[..., Awaitable[None]], **settings: Any) -> None:
        async def whole() -> None:
            replica = Replica(Settings(backbone=str(folder), store=tmp_path / "store", preload=0, **settings), "one")
            await replica.start()
            try:
                transport = httpx.ASGITransport(Front(Transport(replica.ask, stored), LIMITS))
                async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                    await use(replica, client)
            finally:
                await replica.stop()

        asyncio.run(whole())

    return run


def test_the_same_application_over_the_folders_of_the_store(with_replica: Any, tmp_path: Path) -> None:
    async def use(replica: Replica, client: httpx.AsyncClient) -> None:
        assert [one["name"] for one in (await client.get("/v1/tasks")).json()["data"]] == ["spam", "topic"]
        answer = await client.post("/v1/tasks/spam/predict", json={"inputs": ["w1 w2"]})
        assert answer.status_code == 200
        assert len(answer.json()["outputs"]) == 1
        assert answer.headers["X-Manyhats-Replica"] == "one"
        assert "X-Request-Id" in answer.headers
        assert (await client.post("/v1/tasks/no/predict", json={"inputs": ["w1"]})).status_code == 404
        assert replica.runtime.settings.store == tmp_path / "store" / "replicas" / "0"

    with_replica(use)


def test_what_it_holds_and_how_often_it_held_what_was_asked(with_replica: Any) -> None:
    async def use(replica: Replica, client: httpx.AsyncClient) -> None:
        for task in ("spam", "topic"):
            for _ in range(3):
                await client.post(f"/v1/tasks/{task}/predict", json={"inputs": ["w1 w2"]})
            assert replica.held_tasks() == [task]  # there is one slot
        await client.post("/v1/tasks/base/predict", json={"inputs": ["w1 w2"]})  # which every replica holds
        found = replica.figures()
        assert (found["replica"], found["pid"], found["place"], found["tasks"]) == ("one", os.getpid(), 0, 2)
        assert (found["under_way"], found["asked"]) == (0, 6)
        assert found["held"] in (4, 5)  # an adapter that is taken in may be loaded at once
        assert replica.depth() == 0

    with_replica(use, slots=1)


def test_an_upload_comes_in_parts(with_replica: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhats.scale.front._PART", 1000)
    files = [("files", (path.name, path.read_bytes())) for path in (tmp_path / "store" / "spam").iterdir()]

    async def use(replica: Replica, client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/tasks/new/versions", files=files)
        assert answer.status_code == 201, answer.text
        assert replica.runtime.registry.find("new") is not None

    with_replica(use)


def test_a_replica_whose_engine_has_given_up_is_not_healthy(with_replica: Any) -> None:
    async def use(replica: Replica, client: httpx.AsyncClient) -> None:
        replica.check_health()
        replica.runtime._end("the model's thread cannot go on")
        with pytest.raises(EngineFailure, match="cannot go on"):
            replica.check_health()

    with_replica(use)


def test_one_that_does_not_start_gives_its_folder_back(tmp_path: Path) -> None:
    settings = Settings(backbone=str(tmp_path / "nothing"), store=tmp_path / "store")
    (tmp_path / "store").mkdir()
    for _ in range(2):
        with pytest.raises(Exception, match="nothing"):
            Replica(settings, "one")
    assert [path.name for path in (tmp_path / "store" / "replicas").iterdir() if path.is_dir()] == ["0"]
