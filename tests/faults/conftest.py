"""Real servers in processes of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from manyhats.backbone import Backbone

from tests.api.live import PATIENCE, Files, adapter_files, wait_until
from tests.processes import Launcher, Process


class Server(Process):
    """`manyhats serve` on a store."""

    def __init__(
        self, launcher: Launcher, log: Path, arguments: list[str], file_limit: int | None, script: str | None
    ) -> None:
        needs = ("manyhats.api.app", "manyhats.runtime")
        super().__init__(launcher, log, arguments, script=script, needs=needs, file_limit=file_limit)
        self.client = httpx.Client(timeout=PATIENCE)

    def wait_ready(self) -> Server:
        """Until it answers. The port is the one that it logs."""

        def found() -> bool:
            match = re.search(r"running on (http://[\d.]+:\d+)", self.text)
            if match:
                self.client.base_url = match[1]
            elif "Traceback" in self.text or re.search(r"(?m)^manyhats: ", self.text):
                pytest.fail(f"the server does not start:\n{self.text}")
            return bool(match)

        wait_until(found, "the server listens")
        wait_until(lambda: self.client.get("/readyz").status_code == 200, "the server is ready")
        return self

    def end(self) -> int:
        """Waits for its end; its exit code."""
        self.client.close()
        return super().end()

    def upload(self, task: str, files: Files, client: httpx.Client | None = None) -> httpx.Response:
        """Sends an adapter."""
        parts = [("files", (name, data)) for name, data in files.items()]
        return (client or self.client).post(f"/v1/tasks/{task}/versions", files=parts)

    def ask(self, task: str, inputs: Any = "w1 w2") -> httpx.Response:
        """Asks one task."""
        return self.client.post(f"/v1/tasks/{task}/predict", json={"inputs": inputs})

    def tasks(self) -> list[str]:
        """The names of its tasks."""
        return [row["name"] for row in self.client.get("/v1/tasks").json()["data"]]


Start = Callable[..., Server]


@pytest.fixture
def serve(launcher: Launcher, base_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[Start]:
    """Starts `manyhats serve` on a store (of the test's own folder, if none is given); `script`: runs it otherwise."""
    started: list[Server] = []

    def start(
        store: Path | None = None, *options: str, file_limit: int | None = None, script: str | None = None
    ) -> Server:
        arguments = ["serve", "--backbone", str(base_folder("bert")), "--store", str(store or tmp_path / "store")]
        arguments += ["--port", "0", "--device", "cpu", "--dtype", "float32", "--threads", "1"]
        arguments += ["--scan-interval", "0.1", *options]
        one = Server(launcher, tmp_path / f"log-{len(started)}", arguments, file_limit, script)
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="session")
def adapters(load_backbone: Callable[[str], Backbone], base_folder: Callable[[str], Path]) -> Callable[..., Files]:
    """Adapters for the backbone of these servers."""
    return lambda method="lora", **options: adapter_files(load_backbone("bert"), method, **options)
