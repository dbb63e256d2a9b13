"""Folders copied by hand, and a disk that is full."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.live import Files, assert_error, close, wait_until
from tests.faults.conftest import Server, Start


def copied(store: Path, name: str, files: Files) -> None:
    """As `cp -r` would."""
    (store / name).mkdir(parents=True)
    for file, data in files.items():
        (store / name / file).write_bytes(data)


def test_copied_folders_are_taken_in(serve: Start, adapters, tmp_path):
    store = tmp_path / "store"
    good, bad = adapters(labels=4), adapters()
    bad["adapter_model.safetensors"] = bad["adapter_model.safetensors"][:1000]
    copied(store, "early", good)
    copied(store, "bad-early", bad)
    (store / "not-an-adapter").mkdir()
    server = serve(store).wait_ready()
    assert server.tasks() == ["early"]  # when it says ready, it has it
    assert len(server.ask("early").json()["outputs"][0]["scores"]) == 4
    copied(store, "bad-late", bad)
    copied(store, "late", adapters("mask", labels=5))
    copied(store, "not a name!", adapters())
    wait_until(lambda: "late" in server.tasks(), "the folder is taken in")
    assert len(server.ask("late").json()["outputs"][0]["scores"]) == 5
    for name in ("bad-early", "bad-late"):
        wait_until(lambda name=name: re.search(rf"{name}.* refused", server.text), f"{name} is refused")
    assert server.tasks() == ["early", "late"]
    assert server.client.get("/readyz").status_code == 200
    # A folder that is changed is a new version; the copy itself is never touched.
    for file, data in adapters("prefix", labels=6).items():
        (store / "early" / file).write_bytes(data)
    wait_until(lambda: server.ask("early").json()["version"] == 2, "the change is taken in")
    assert sorted(path.name for path in (store / "early").iterdir()) == sorted(adapters())
    # What was deleted is not brought back by a restart.
    assert server.client.delete("/v1/tasks/late").status_code == 204
    server.kill()
    server = serve(store).wait_ready()
    assert server.tasks() == ["early"]
    assert server.ask("early@1").status_code == server.ask("early@2").status_code == 200


def test_a_store_that_cannot_be_read_is_said_until_it_is_back(serve: Start, adapters, tmp_path):
    store, aside = tmp_path / "store", tmp_path / "aside"
    server = serve(store).wait_ready()
    assert server.upload("good", adapters("mask")).status_code == 201
    expected = server.ask("good").json()["outputs"]
    store.rename(aside)  # as where a volume is taken away
    wait_until(lambda: server.client.get("/readyz").status_code == 503, "readiness follows")
    assert_error(server.client.get("/readyz"), 503, "the scan for adapters fails: FileNotFoundError: No such file")
    assert str(tmp_path) not in server.client.get("/readyz").text
    assert close(server.ask("good").json()["outputs"], expected)
    aside.rename(store)
    wait_until(lambda: server.client.get("/readyz").status_code == 200, "it is ready again")
    copied(store, "late", adapters("mask", labels=5))
    wait_until(lambda: "late" in server.tasks(), "it scans again")
    assert "the scan for adapters works again" in server.text


# ---- a full disk


def fill(store: Path) -> Path:
    """Takes all the room that is left."""
    filler = store / "filler"
    with filler.open("wb", buffering=0) as out:
        for size in (1 << 16, 1 << 12, 1 << 9, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue
    return filler


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = shutil.which("mount")
    if os.geteuid() or not command:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(
        [command, "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def check_well(server: Server, expected: list) -> None:
    assert server.client.get("/readyz").status_code == 200
    for _ in range(3):
        assert close(server.ask("good").json()["outputs"], expected)


def test_a_full_disk_refuses_uploads_and_nothing_else(serve: Start, adapters, small_disk):
    server = serve(small_disk).wait_ready()
    assert server.upload("good", adapters("mask")).status_code == 201
    expected = server.ask("good").json()["outputs"]
    filler = fill(small_disk)
    for _ in range(3):
        error = assert_error(server.upload("more", adapters()), 507)
        assert error["type"] == "StorageFullError"
        check_well(server, expected)
    assert_error(server.ask("more"), 404)
    # Small writes may find room or not; they never do half of what they should.
    for i in range(3):
        answer = server.client.put("/v1/tasks/good", json={"priority": i})
        if answer.status_code != 200:
            assert_error(answer, 507)
    server.client.post("/v1/tasks/good/unload")
    check_well(server, expected)
    filler.unlink()
    assert list((small_disk / ".manyhats" / "staging").iterdir()) == []
    assert server.upload("more", adapters()).status_code == 201
    assert server.ask("more").status_code == 200
    assert server.client.put("/v1/tasks/good", json={"priority": 5}).json()["priority"] == 5
    blobs = {path.name for path in (small_disk / ".manyhats" / "blobs").iterdir()}
    assert blobs == {server.ask(task).json()["sha256"] for task in ("good", "more")}
    check_well(server, expected)
    server.kill()
    server = serve(small_disk).wait_ready()
    assert server.tasks() == ["good", "more"]
    check_well(server, expected)


def test_a_store_fills_up_by_uploads(serve: Start, adapters, small_disk):
    server = serve(small_disk).wait_ready()
    assert server.upload("good", adapters()).status_code == 201
    expected = server.ask("good").json()["outputs"]
    taken = 0
    while True:
        files = adapters() | {"README.md": os.urandom(150_000).hex().encode()}
        answer = server.upload(f"t{taken}", files)
        if answer.status_code != 201:
            assert_error(answer, 507)
            break
        taken += 1
        assert taken < 20
    assert taken > 2
    check_well(server, expected)
    for gone in ("t0", "t1"):
        assert server.client.delete(f"/v1/tasks/{gone}").status_code == 204
    assert server.upload("again", files).status_code == 201
    assert server.tasks() == sorted(["again", "good", *(f"t{i}" for i in range(2, taken))])
    assert all(server.ask(task).status_code == 200 for task in server.tasks())


def test_a_file_that_may_not_grow_is_storage_that_is_full(serve: Start, adapters):
    server = serve(None, file_limit=2 << 20).wait_ready()
    assert server.upload("good", adapters()).status_code == 201
    expected = server.ask("good").json()["outputs"]
    big = adapters() | {"README.md": b"x" * (3 << 20)}
    for _ in range(3):
        assert_error(server.upload("big", big), 507)
        check_well(server, expected)
    assert server.upload("small", adapters()).status_code == 201
    assert server.tasks() == ["good", "small"]
