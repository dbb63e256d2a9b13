"""`manyhats gc`: removes what no version needs, and nothing of another store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from manyhats.registry.blobs.choose import choose_blobs
from manyhats.registry.blobs.contents import digest
from manyhats.registry.registry import Registry

from tests.commands.asking import refused, run
from tests.registry.helpers import inspect, upload, write_adapter
from tests.s3 import Endpoint


def store_over(store: Path, address: str) -> tuple[str, str]:
    """A store with a content that a version needs, and one that an upload has left. Their sha256."""
    registry = Registry(store, inspect, blobs=choose_blobs(address, store / ".manyhats"))
    registry.open()
    version = upload(registry, "spam", "one")
    with registry.stage() as folder:
        left = digest(write_adapter(folder, "left"))
        registry.blobs.put(folder, left)
        registry.blobs.keep(folder, left)
    registry.close()
    return version.sha256, left


@pytest.mark.parametrize("where", ["store", "shared", "s3"])
def test_what_no_version_needs_goes(tmp_path: Path, s3: Endpoint, where: str) -> None:
    store = tmp_path / "store"
    address = {"store": "", "shared": str(tmp_path / "shared"), "s3": s3.bucket()}[where]
    needed, left = store_over(store, address)
    words = ["gc", "--store", store, *(["--blobs-url", address] if address else [])]
    found = json.loads(run(*words, "--json")[0])
    assert (found["removed"], found["waiting"], found["marked"]) == ([], [left], [left])
    assert found["cached"] == ([left] if where == "s3" else [])
    out, _ = run(*words, "--grace", "0", "--dry-run")
    assert out.splitlines()[0] == f"would remove {left}"
    assert run(*words, "--grace", "0")[0].splitlines()[0] == f"removed {left}"
    assert run(*words, "--grace", "0")[0].startswith("1 contents are needed, 0 wait")
    assert set(choose_blobs(address, store / ".manyhats").stored()) == {needed}


def test_beside_a_server(tmp_path: Path) -> None:
    store = tmp_path / "store"
    registry = Registry(store, inspect)
    registry.open()
    version = upload(registry, "spam", "one")
    assert "1 contents are needed" in run("gc", "--store", store, "--grace", "0")[0]
    assert registry.files(version).is_dir()
    upload(registry, "spam", "two")
    registry.close()


def test_a_wrong_store_is_refused(
    tmp_path: Path, s3: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = s3.bucket()
    store_over(tmp_path / "one", address)
    store_over(tmp_path / "two", "")

    def gc(store: str, url: str = "", code: int = 1) -> str:
        return refused(monkeypatch, capsys, "gc", "--store", tmp_path / store, "--blobs-url", url, code=code)

    assert "no store" in gc("none", code=2)
    assert "those of another database" in gc("two", address)
    assert "nobody's yet" in gc("two", s3.bucket())
    assert "none of the 1 contents" in gc("one")
    assert "nobody's yet" in gc("one", f"{address}x")
