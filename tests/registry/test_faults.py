"""Killed processes and full disks, for real."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from manyhats.registry.blobs import digest
from manyhats.registry.registry import Registry

from tests.processes import Launcher, Process
from tests.registry.helpers import blobs, staged
from tests.waiting import wait_until

NEEDS = ["manyhats.registry.registry", "tests.registry.helpers"]
KILLS = 12

WRITER = """
import itertools, sys
from pathlib import Path
from tests.registry.helpers import inspect, upload
from manyhats.registry.records import Target
from manyhats.registry.registry import Registry

registry = Registry(Path(sys.argv[1]), inspect)
registry.open()
for i in itertools.count():
    task = f"task-{i % 3}"
    version = upload(registry, task, f"{sys.argv[2]}-{i}")
    print("made", version.task, version.number, version.sha256, flush=True)
    versions = registry.task(task).versions
    registry.set_alias(task, "canary", [Target(v.number) for v in versions[-2:]])
    if i % 3 == 2 and len(versions) > 2:
        print("deleting", task, versions[0].number, flush=True)
        registry.delete_version(task, versions[0].number)
    if i % 7 == 6:
        print("deleting task-1 all", flush=True)
        registry.delete_task("task-1")
"""

# A small file system that only this process sees.
SMALL = """
import ctypes, json, subprocess, sys
from pathlib import Path

NEW_MOUNTS = 0x20000
if ctypes.CDLL(None).unshare(NEW_MOUNTS):
    sys.exit("not permitted: unshare")
for command in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "size=2m", "tmpfs", sys.argv[1]]):
    if subprocess.run(["mount", *command], capture_output=True).returncode:
        sys.exit("not permitted: mount")

from tests.registry.helpers import blobs, inspect, staged, upload
from manyhats.errors import StorageFull
from manyhats.registry.registry import Registry

store = Path(sys.argv[1]) / "store"
registry = Registry(store, inspect)
registry.open()
"""

# Fills it by uploads.
FILLER = (
    SMALL
    + """
errors = []
for i in range(200):
    try:
        upload(registry, "spam", f"{i}:" + "x" * 100_000)
    except StorageFull as error:
        errors.append(error.message)
        break
full = [v.number for v in registry.task("spam").versions]
whole = all((registry.files(v) / "adapter_model.safetensors").stat().st_size > 100_000
            for v in registry.task("spam").versions)
matches = blobs(store) == {v.sha256 for v in registry.task("spam").versions} and not staged(store)
for number in full[:3]:
    registry.delete_version("spam", number)
after = upload(registry, "spam", "small").number
registry.close()
again = Registry(store, inspect)
again.open()
print(json.dumps([errors, full, whole, matches, after, again.resolve("spam").number]))
"""
)

# Fills it to the last byte, and then deletes.
DELETER = (
    SMALL
    + """
from manyhats.registry.records import Target

for task in ("one", "two", "three", "four"):
    for i in range(10):
        upload(registry, task, f"{task} {i} " + "x" * 1000)
registry.set_alias("four", "canary", [Target(3)])


opened = True


def fill():
    if opened:
        registry._database.truncate_log()  # else the log of writes is as long as a deletion needs
    with (Path(sys.argv[1]) / "filler").open("ab", buffering=0) as out:
        for size in (1 << 16, 1 << 12, 1 << 9, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                pass


done = []
fill()
for delete in (
    lambda: registry.delete_task("one"),
    lambda: registry.delete_alias("four", "canary"),
    lambda: [registry.delete_version("four", i) for i in range(1, 10)],
    lambda: registry.delete_task("two"),
):
    delete()
    (Path(sys.argv[1]) / "filler").unlink()
    kept = (store / ".manyhats" / "reserve").exists()
    fill()
    try:
        upload(registry, "more", "y" * 100_000)
        refused = False
    except StorageFull:
        refused = True
    done.append([kept, refused, sorted(task.name for task in registry.all())])
registry.close()
opened = False
fill()
registry = Registry(store, inspect)
registry.open()
registry.delete_task("three")
left = [v.number for v in registry.task("four").versions]
matches = blobs(store) == {v.sha256 for task in registry.all() for v in task.versions} and not staged(store)
registry.close()
again = Registry(store, inspect)
again.open()
print(json.dumps([done, left, matches, sorted(task.name for task in again.all())]))
"""
)


def check_whole(registry: Registry, store: Path) -> None:
    """Every version has its files, every blob its version, and every alias points at a version."""
    versions = [version for task in registry.all() for version in task.versions]
    assert blobs(store) == {version.sha256 for version in versions}
    assert staged(store) == []
    for task in registry.all():
        assert task.aliases
        for targets in task.aliases.values():
            assert all(task.version(target.version) for target in targets)
    for version in versions:
        assert digest(registry.files(version)) == version.sha256


def test_a_killed_writer_leaves_a_whole_store(
    store: Path, opened: Callable[..., Registry], launcher: Launcher, tmp_path: Path
) -> None:
    chance = random.Random(5)
    expected: dict[tuple[str, int], str] = {}  # versions whose upload was answered, and whose deletion was not asked
    for round_ in range(KILLS):
        log = tmp_path / f"log-{round_}"
        writer = Process(launcher, log, [str(store), str(round_)], script=WRITER, needs=NEEDS)
        lines = killed(writer, after=chance.randint(1, 12), seconds=chance.uniform(0, 0.02))
        assert any(line[0] == "made" for line in lines)
        for word, task, number, *sha in lines:
            if word == "made":
                expected[task, int(number)] = sha[0]
            else:
                expected = {
                    key: s for key, s in expected.items() if key[0] != task or number not in ("all", str(key[1]))
                }
        registry = opened(store)
        check_whole(registry, store)
        found = {(v.task, v.number): v.sha256 for task in registry.all() for v in task.versions}
        assert expected.items() <= found.items()
        registry.close()


def killed(writer: Process, *, after: int, seconds: float) -> list[list[str]]:
    """Kills the writer some time after it has said so many lines, and returns all that it said, in words."""
    wait_until(lambda: writer.text.count("\n") >= after, f"{after} lines")
    time.sleep(seconds)  # any moment will do; a random one is what is wanted
    writer.kill()
    return [line.split() for line in writer.text.splitlines(keepends=True) if line.endswith("\n")]


def test_a_full_disk_is_said_so_and_breaks_nothing(launcher: Launcher, tmp_path: Path) -> None:
    errors, full, whole, matches, after, again = said_on_a_small_disk(launcher, tmp_path, FILLER)
    assert len(errors) == 1
    assert "no room" in errors[0]
    assert len(full) >= 4
    assert whole
    assert matches
    assert after == again > full[-1]


def test_what_is_deleted_on_a_full_disk_is_gone(launcher: Launcher, tmp_path: Path) -> None:
    done, left, matches, again = said_on_a_small_disk(launcher, tmp_path, DELETER)
    assert done[0] == [True, True, ["four", "three", "two"]]
    assert done[3][2] == ["four", "three"]
    assert all(refused for _, refused, _ in done)
    assert left == [10]
    assert matches
    assert again == ["four"]  # a start on the full disk, and a deletion


def said_on_a_small_disk(launcher: Launcher, tmp_path: Path, script: str) -> list[Any]:
    """What a script prints, on a small file system of its own, which only the child process sees."""
    mount = tmp_path / "small"
    mount.mkdir()
    child = Process(launcher, tmp_path / "log", [str(mount)], script=script, needs=NEEDS)
    code = child.end()
    if "not permitted" in child.text:
        pytest.skip("mounting a small file system is not permitted here")
    assert code == 0, child.text
    assert list(mount.iterdir()) == []
    return json.loads(child.text)  # type: ignore[no-any-return]
