"""Servers that are killed under every kind of change: what was acknowledged is there, and nothing by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.amounts import tried
from tests.faults.changes import KINDS
from tests.faults.crash import killed_under
from tests.faults.stored_blobs import InBucket
from tests.processes import Launcher
from tests.s3 import Endpoint


@tried(2, 5)
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_killed_under_a_change(launcher: Launcher, tmp_path: Path, kind: str, amount: int) -> None:
    counts = killed_under(kind, amount, launcher, tmp_path, seed=2)
    assert counts["points"] == amount
    assert counts["lines of one change"] > 100  # what is counted is there


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["upload of a new version", "deletion of a task", "import of a folder"])
def test_a_server_on_postgresql_killed_under_a_change(
    launcher: Launcher, tmp_path: Path, database_url: str, kind: str
) -> None:
    counts = killed_under(kind, 2, launcher, tmp_path, seed=3, database_url=database_url)
    assert counts["lines of one change"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["upload of a new version", "deletion of a task", "deletion of a version"])
def test_a_server_over_s3_killed_under_a_change(launcher: Launcher, tmp_path: Path, s3: Endpoint, kind: str) -> None:
    counts = killed_under(kind, 3, launcher, tmp_path, seed=5, blobs=InBucket(s3))
    assert counts["lines of one change"] > 100


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_on_postgresql_killed_under_many_changes(
    launcher: Launcher, tmp_path: Path, database_url: str, kind: str
) -> None:
    assert killed_under(kind, 20, launcher, tmp_path, seed=4, database_url=database_url)["points"] == 20


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_over_s3_killed_under_many_changes(
    launcher: Launcher, tmp_path: Path, s3: Endpoint, kind: str
) -> None:
    assert killed_under(kind, 20, launcher, tmp_path, seed=6, blobs=InBucket(s3))["points"] == 20
