"""Downloads hold a version's files for as long as they are sent, and no longer."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
from manyhats.api.downloads import _Download, packed

from tests.api.live import Live, adapter_files, fresh, raw, wait_until


@pytest.mark.parametrize("how", ["reset", "closed", "read a little"])
def test_a_client_that_leaves_gives_the_files_back(live: Live, how: str) -> None:
    files = adapter_files(live.backbone) | {"README.md": os.urandom(500_000)}
    task = fresh("left")
    sha = live.upload(task, files).json()["sha256"]
    for _ in range(5):
        head = f"GET /v1/tasks/{task}/versions/1/download HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection = raw(live, head.encode())
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "read a little":
            connection.recv(100)
        connection.close()
    live.client.delete(f"/v1/tasks/{task}")
    wait_until(lambda: not (live.hidden / "blobs" / sha).exists(), "the files are removed")
    live.wait_idle()


def test_a_client_that_has_left_before_the_first_byte(live: Live) -> None:
    """Nothing of the answer's content is asked for then."""
    task = fresh("gone")
    live.upload(task, adapter_files(live.backbone))

    async def run() -> None:
        version = live.runtime.registry.pin(task)
        response = _Download(live.runtime, version, live.runtime.registry.files(version))

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await asyncio.sleep(60)

        await response({"type": "http", "method": "GET", "asgi": {"spec_version": "2.3"}}, receive, send)

    asyncio.run(run())
    assert live.pins() == 0


def test_a_folder_is_packed_piece_by_piece(tmp_path: Path) -> None:
    content = {"a.safetensors": os.urandom(5 << 20), "sub/b.json": b"{}", "empty.txt": b"", "c" * 120: b"long"}
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    pieces = list(packed(tmp_path))
    assert max(map(len, pieces)) < 2 << 20
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces)), mode="r:gz") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}
    assert found == content
