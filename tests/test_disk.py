from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
from manyhats.disk import full_disk_as_storage_full, is_full
from manyhats.errors import InvalidRequest, StorageFull
from safetensors import SafetensorError
from sqlalchemy.exc import OperationalError


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EFBIG, "File too large"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OperationalError("COMMIT", {}, sqlite3.OperationalError("database or disk is full")), True),
        (OperationalError("COMMIT", {}, sqlite3.OperationalError("database is locked")), False),
        (OperationalError("INSERT", {"a": "database or disk is full"}, sqlite3.OperationalError("no")), False),
    ],
)
def test_a_full_disk_is_known_by_what_the_writer_says(error: Exception, full: bool) -> None:
    assert is_full(error) is full


def test_an_error_of_a_full_disk_becomes_storage_full_with_the_given_message() -> None:
    with (
        pytest.raises(StorageFull, match=r"nothing was kept: .*No space"),
        full_disk_as_storage_full(lambda error: f"nothing was kept: {error}"),
    ):
        Path("/dev/full").write_bytes(b"x")


@pytest.mark.parametrize("error", [ValueError("No"), InvalidRequest("'No space left.bin' is a pickle")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, full_disk_as_storage_full(str):
        raise error
    assert caught.value is error
