"""The TypeScript client against running servers, by its own tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from manyhats.core.batch import ScheduledBatch, SequenceOutput
from manyhats.engine.runner import Runner

from tests.api.live import Live, adapter_files
from tests.docs.pages import blocks
from tests.typescript.conftest import npm
from tests.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.node


def test_its_own_tests(compiled: Path, reading: Live, writing: Live, writes: str, tmp_path: Path) -> None:
    folders = {"adapter": reading.backbone, "stranger": writing.backbone}
    for folder, backbone in folders.items():
        (tmp_path / folder).mkdir()
        for name, data in adapter_files(backbone).items():
            (tmp_path / folder / name).write_bytes(data)
    served = {
        "encoder": f"http://{reading.host}:{reading.port}",
        "decoder": f"http://{writing.host}:{writing.port}",
        "classifies": reading.add(),
        "tags": reading.add(kind="tokens"),
        "writes": writes,
        **{folder: str(tmp_path / folder) for folder in folders},
    }
    said = npm("run", "--ignore-scripts", "test", MANYHATS_SERVED=json.dumps(served))
    assert "skipped 0" in said, said
    assert "fail 0" in said, said
    reading.wait_idle()
    writing.wait_idle()


@pytest.mark.parametrize("how", ["loop", "signal"])
def test_a_stream_that_is_left_ends_on_the_server(
    compiled: Path, writing: Live, writes: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that nobody reads any more is in no pass after the one under way."""
    passes: list[int] = []
    left = threading.Event()
    execute = Runner.execute

    def held(runner: Runner, batch: ScheduledBatch) -> list[SequenceOutput]:
        passes.append(len(batch.sequences))
        if len(passes) > 3:
            left.wait(PATIENCE)
        return execute(runner, batch)

    monkeypatch.setattr(Runner, "execute", held)
    node = shutil.which("node")
    assert node is not None
    address = f"http://{writing.host}:{writing.port}"
    script = [node, str(compiled / "tests" / "leaving.js"), address, writes, how]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "left\n"
            running = writing.runtime.engine.scheduler.running
            wait_until(lambda: all(one.request.future.done() for one in running), "the server knows of it")
            before = len(passes)
        finally:
            left.set()
            process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    writing.wait_idle()
    assert len(passes) <= before + 1


def test_the_readme(compiled: Path, built: Path, reading: Live, writing: Live, writes: str, tmp_path: Path) -> None:
    """Its snippets are of the right types, and run one behind the other with the package as it is built."""
    (tmp_path / "out" / "adapter").mkdir(parents=True)
    for name, data in adapter_files(reading.backbone).items():
        (tmp_path / "out" / "adapter" / name).write_bytes(data)
    assert reading.upload("spam", adapter_files(reading.backbone)).status_code == 201
    snippets = "".join(one.content for one in blocks("clients/typescript/README.md") if one.language == "ts")
    for port, live in ((8000, reading), (8001, writing)):
        address = f"http://127.0.0.1:{port}"
        assert address in snippets
        snippets = snippets.replace(address, f"http://{live.host}:{live.port}")
    snippets = snippets.replace('"stories"', json.dumps(writes))
    script = compiled / "readme.ts"
    script.write_text(snippets)
    options = ["--target", "ES2022", "--module", "NodeNext", "--strict", "--skipLibCheck", "--types", "node"]
    npm("exec", "--", "tsc", *options, str(script))
    environment = os.environ | {"MANYHATS_API_KEY": "may-ask"}
    node = ["node", str(script.with_suffix(".js"))]
    done = subprocess.run(node, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "404 NotFoundError task The task `spm` does not exist." in done.stdout
    assert "2 true" in done.stdout  # the vectors
    assert (tmp_path / "spam.tar.gz").stat().st_size > 100
    assert "stable" in reading.client.get("/v1/tasks/spam").json()["aliases"]
