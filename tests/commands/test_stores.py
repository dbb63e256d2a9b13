"""`manyhats migrate`, `backup` and `restore`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from manyhats import cli
from manyhats.registry.blobs.choose import choose_blobs
from manyhats.registry.registry import Registry
from manyhats.registry.stores.choose import metadata_store
from typer.testing import CliRunner

from tests.commands import asking
from tests.registry.helpers import inspect, upload
from tests.s3 import Endpoint

Refused = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one task, which a server has left."""
    registry = Registry(tmp_path / "store", inspect)
    registry.open()
    upload(registry, "spam", "a")
    upload(registry, "spam", "b")
    registry.close()
    return registry.store


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line that a command fails with."""
    return partial(asking.refused, monkeypatch, capsys)


def said(*words: str | Path) -> str:
    result = CliRunner().invoke(cli.app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output.strip()


def test_files_move_into_an_object_store_and_back(store: Path, tmp_path: Path, s3: Endpoint) -> None:
    copied = "1 tasks, 2 versions, 2 adapters' files"
    said("backup", tmp_path / "one.tar", "--store", store)
    bucket = s3.bucket()
    other = "--store", tmp_path / "other", "--blobs-url", bucket
    assert said("restore", tmp_path / "one.tar", *other) == f"restored {copied}"
    assert not any((tmp_path / "other" / ".manyhats" / "blobs").glob("*"))
    registry = Registry(
        tmp_path / "other", inspect, blobs=choose_blobs(bucket, tmp_path / "other" / ".manyhats", 1 << 20, 3.0)
    )
    registry.open()  # the bucket is this database's from now on
    upload(registry, "spam", "c")
    assert said("backup", tmp_path / "two.tar", *other) == "copied 1 tasks, 3 versions, 3 adapters' files"
    registry.close()
    third = "--store", tmp_path / "third"
    assert said("restore", tmp_path / "two.tar", *third) == "restored 1 tasks, 3 versions, 3 adapters' files"
    registry = Registry(tmp_path / "third", inspect)
    registry.open()
    for version in registry.task("spam").versions:
        registry.files(version)
    registry.close()


def test_a_store_moves_to_postgresql_and_back(store: Path, tmp_path: Path, database_url: str, refused: Refused) -> None:
    copied = "1 tasks, 2 versions, 2 adapters' files"
    assert said("backup", tmp_path / "one.tar", "--store", store) == f"copied {copied}"
    other = "--store", tmp_path / "other", "--database-url", database_url
    assert said("restore", tmp_path / "one.tar", *other) == f"restored {copied}"
    registry = Registry(
        tmp_path / "other", inspect, database=metadata_store(database_url, tmp_path / "other" / ".manyhats")
    )
    registry.open()
    assert registry.resolve("spam").number == 2
    assert json.loads(said("backup", tmp_path / "two.tar", "--json", *other))["versions"] == 2  # while it is open
    registry.close()
    assert said("restore", tmp_path / "two.tar", "--store", tmp_path / "third") == f"restored {copied}"
    assert "not empty" in refused("restore", tmp_path / "two.tar", "--store", store, code=2)


def test_migrating_says_what_it_did(store: Path, tmp_path: Path, database_url: str, refused: Refused) -> None:
    assert said("migrate", "--store", store) == "nothing to do: the database has schema 3"
    with sqlite3.connect(store / ".manyhats" / "registry.sqlite3") as connection:
        connection.execute("UPDATE schema SET version = 2")
    connection.close()
    assert "run `manyhats migrate`" in refused("backup", tmp_path / "x.tar", "--store", store)
    assert json.loads(said("migrate", "--json", "--store", store)) == {"schema_before": 2, "schema": 3}
    assert said("migrate", "--database-url", database_url, "--store", store) == "made the tables of schema 3"
    assert said("migrate", "--database-url", database_url, "--store", store).startswith("nothing to do")


def test_what_cannot_be_done_is_said_in_one_line(store: Path, tmp_path: Path, refused: Refused) -> None:
    nowhere = tmp_path / "nowhere"
    assert "there is no store in" in refused("backup", tmp_path / "x.tar", "--store", nowhere)
    assert "there is no store in" in refused("migrate", "--store", nowhere, code=2)
    assert "is no file" in refused("restore", nowhere, "--store", nowhere, code=2)
    (tmp_path / "text").write_text("text")
    assert "not a whole backup" in refused("restore", tmp_path / "text", "--store", nowhere, code=2)
    assert "there already" in refused("backup", tmp_path / "text", "--store", store, code=2)
    message = refused("migrate", "--database-url", "mysql://me:secret@host/x", code=2)
    assert "postgresql://" in message
    assert "secret" not in message
    registry = Registry(store, inspect)
    registry.open()
    try:
        assert "a server uses the store" in refused("migrate", "--store", store, code=2)
        assert "a server uses the store" in refused("restore", tmp_path / "text", "--store", store, code=2)
    finally:
        registry.close()
