"""Replicas that share a database and files: what one is told, all know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from manyhats.bench.server import free_port
from manyhats.formats.writer import write_adapter
from manyhats.scale.launcher import cluster, deploy, figures
from manyhats.scale.options import Scaling
from manyhats.settings import Settings

from tests import tiny
from tests.scale.test_cluster import PATIENCE, eventually

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.filterwarnings("ignore")]

TWO = Scaling(replicas=2)
TASKS = [f"task-{i}" for i in range(4)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, postgres: object) -> Iterator[httpx.Client]:
    """A client of two replicas of a tiny BERT, with an empty database."""
    root = tmp_path_factory.mktemp("shared")
    settings = Settings(
        backbone=str(tiny.write_base("bert", root / "base")),
        store=root / "store",
        database_url=postgres.make(),  # type: ignore[attr-defined]
        blobs_url=str(root / "blobs"),
        port=free_port(),
        threads=1,
        preload=0,
        request_timeout=PATIENCE,
    )
    with cluster(TWO):
        deploy(settings, TWO)
        with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=PATIENCE) as own:
            yield own


def test_an_upload_reaches_every_replica(client: httpx.Client, tmp_path: Path) -> None:
    backbone = tiny.load(tiny.write_base("bert", tmp_path / "base"))
    for seed, task in enumerate(TASKS):
        (tmp_path / task).mkdir()
        write_adapter(tiny.adapter(backbone, "lora", seed, labels=3), tmp_path / task, backbone)
        files = [("files", (path.name, path.read_bytes())) for path in (tmp_path / task).iterdir()]
        assert client.post(f"/v1/tasks/{task}/versions", files=files).status_code == 201
    begin = time.monotonic()
    eventually(lambda: all(one["tasks"] == len(TASKS) for one in figures()), "all replicas have all tasks")
    print(f"known everywhere after {time.monotonic() - begin:.2f} s")
    answers = [client.post(f"/v1/tasks/{task}/predict", json={"inputs": ["w1 w2"]}) for task in TASKS]
    assert [answer.status_code for answer in answers] == [200] * len(TASKS)
    assert len({answer.headers["X-Manyhats-Replica"] for answer in answers}) == 2


def test_a_deletion_reaches_every_replica(client: httpx.Client) -> None:
    assert client.delete(f"/v1/tasks/{TASKS[0]}").status_code in (200, 204)
    eventually(lambda: all(one["tasks"] == len(TASKS) - 1 for one in figures()), "no replica has it any more")
    assert client.post(f"/v1/tasks/{TASKS[0]}/predict", json={"inputs": ["w1"]}).status_code == 404
