"""Killed processes and full disks, for real."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from manyhats.registry.blobs import digest
from manyhats.registry.registry import Registry

from tests.registry.helpers import blobs, staged

REPOSITORY = Path(__file__).parents[2]
KILLS = 12

# Forks a writer for every line it reads: importing anew for each kill would take most of the time.
WRITER = """
import itertools, os, sys
from pathlib import Path
from tests.registry.helpers import inspect, upload
from manyhats.registry.records import Target
from manyhats.registry.registry import Registry

def write(name):
    registry = Registry(Path(sys.argv[1]), inspect)
    registry.open()
    for i in itertools.count():
        task = f"task-{i % 3}"
        version = upload(registry, task, f"{name}-{i}")
        print("made", version.task, version.number, version.sha256, flush=True)
        versions = registry.task(task).versions
        registry.set_alias(task, "canary", [Target(v.number) for v in versions[-2:]])
        if i % 3 == 2 and len(versions) > 2:
            print("deleting", task, versions[0].number, flush=True)
            registry.delete_version(task, versions[0].number)
        if i % 7 == 6:
            print("deleting task-1 all", flush=True)
            registry.delete_task("task-1")

for line in sys.stdin:
    child = os.fork()
    if not child:
        write(line.strip())
    print("started", child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""

FILLER = """
import json, sys
from pathlib import Path
from tests.registry.helpers import blobs, inspect, staged, upload
from manyhats.errors import StorageFull
from manyhats.registry.registry import Registry

store = Path(sys.argv[1])
registry = Registry(store, inspect)
registry.open()
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


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'server'}"}


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


def test_a_killed_writer_leaves_a_whole_store(store: Path, opened: Callable[..., Registry]) -> None:
    chance = random.Random(5)
    expected: dict[tuple[str, int], str] = {}  # versions whose upload was answered, and whose deletion was not asked
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as forker:
        assert forker.stdin is not None
        assert forker.stdout is not None
        for round_ in range(KILLS):
            print(round_, file=forker.stdin, flush=True)
            lines = killed(forker.stdout, after=chance.randint(1, 12), seconds=chance.uniform(0, 0.02))
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


def killed(output: IO[str], *, after: int, seconds: float) -> list[list[str]]:
    """Kills the writer some time after it has said so many lines, and returns all that it said, in words."""
    child, lines = 0, []
    while not child or len(lines) < after:
        line = output.readline().split()
        if line[0] == "started":
            child = int(line[1])
        else:
            lines.append(line)
    time.sleep(seconds)  # any moment will do; a random one is what is wanted
    os.kill(child, signal.SIGKILL)
    while (line := output.readline().split()) != ["ended"]:
        lines.append(line)
    return lines


def test_a_full_disk_is_said_so_and_breaks_nothing(tmp_path: Path) -> None:
    """On a small file system of its own, which only the child process sees."""
    mount = tmp_path / "small"
    mount.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` to give a process a file system of its own")
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]
    probe = [*command, 'mount -t tmpfs -o size=2m tmpfs "$0"', str(mount)]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    script = 'mount -t tmpfs -o size=2m tmpfs "$0"; exec "$1" -c "$2" "$0/store"'
    done = subprocess.run(
        [*command, script, str(mount), sys.executable, FILLER],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors, full, whole, matches, after, again = json.loads(done.stdout)
    assert len(errors) == 1
    assert "no room" in errors[0]
    assert len(full) >= 4
    assert whole
    assert matches
    assert after == again > full[-1]
