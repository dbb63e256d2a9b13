"""The TypeScript client, compiled once, and the servers that it is tried on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.api.generating import CHAT
from tests.api.live import Live, serving

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
_TIMEOUT = 300  # seconds that a command may take; only a failing one takes as long


def npm(*arguments: str, **environment: str) -> str:
    """Runs npm in the client's folder, and gives what it said; fails with that where it failed."""
    done = subprocess.run(
        ["npm", *arguments], cwd=CLIENT, env=os.environ | environment, capture_output=True, text=True, timeout=_TIMEOUT
    )
    assert done.returncode == 0, f"npm {' '.join(arguments)}:\n{done.stdout[-20_000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def installed() -> Path:
    """The client's folder, with the packages that it is built with."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    lock, done = CLIENT / "package-lock.json", CLIENT / "node_modules" / ".package-lock.json"
    if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
        npm("ci", "--ignore-scripts", "--no-audit", "--no-fund")
        done.touch()
    return CLIENT


@pytest.fixture(scope="session")
def compiled(installed: Path) -> Path:
    """The folder of the compiled client and of its tests."""
    npm("exec", "--", "tsc")
    return installed / "build"


@pytest.fixture(scope="session")
def built(installed: Path) -> Path:
    """The client's folder with the package in it, as its users get it."""
    npm("run", "build")
    return installed


@pytest.fixture(scope="module")
def reading(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose backbone reads."""
    with serving(tiny.load(base_folder("bert")), tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def writing(base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose backbone generates, and that wants keys."""
    backbone = tiny.load(base_folder("llama"))
    keys = {"api_keys": "may-ask", "admin_keys": "may-change"}
    with serving(backbone, tmp_path_factory.mktemp("store"), **keys) as running:
        running.client.headers["Authorization"] = "Bearer may-change"
        yield running


@pytest.fixture(scope="module")
def writes(writing: Live) -> str:
    """A task that generates, and converses."""
    task = writing.add("text", kind="generate")
    assert writing.client.put(f"/v1/tasks/{task}", json={"chat_template": CHAT}).status_code == 200
    return task
