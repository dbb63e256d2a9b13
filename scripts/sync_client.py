"""Makes the Python client's blocking half, `_sync`, of its asyncio half, `_async` (`make sync-client`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clients" / "python" / "src" / "manyhats_client"
NAMES = {
    "AsyncAsking": "Asking",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "AsyncItems": "Items",
    "AsyncJob": "Job",
    "AsyncManaging": "Managing",
    "AsyncManyAsker": "ManyAsker",
    "AsyncSender": "Sender",
    "AsyncSleep": "Sleep",
    "AsyncStream": "Stream",
    "AsyncWorkers": "Workers",
    "_async": "_sync",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "aiter_sse": "iter_sse",
    "anext": "next",
    "aread": "read",
    "async_apart": "apart",
    "async_in_batches": "in_batches",
    "async_items": "items",
    "async_sleep": "sleep",
}
_HEAD = "# Made by scripts/sync_client.py of {name}; not edited by hand.\n"


def made() -> dict[str, str]:
    """The files of `_sync` as they should be, by name."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "_async", Path(folder) / "_sync"
        shutil.copytree(PACKAGE / "_async", source, ignore=shutil.ignore_patterns("__pycache__"))
        paths = sorted(source.glob("*.py"))
        unasync.unasync_files([str(path) for path in paths], [unasync.Rule("/_async/", "/_sync/", NAMES)])
        for path in out.glob("*.py"):
            path.write_text(_HEAD.format(name=f"_async/{path.name}") + path.read_text("utf-8"), "utf-8")
        # What is shorter now is put into style again.
        ruff = [sys.executable, "-m", "ruff"]
        settings = ["--quiet", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
        own = ["--config", "lint.isort.known-first-party = ['manyhats_client']"]
        for command in (["check", *own, "--select", "I,UP028", "--fix", "--unsafe-fixes"], ["format"]):
            subprocess.run([*ruff, *command, *settings, str(out)], check=True)
        return {path.name: path.read_text("utf-8") for path in sorted(out.glob("*.py"))}


if __name__ == "__main__":
    target = PACKAGE / "_sync"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for name, text in made().items():
        (target / name).write_text(text, "utf-8")
