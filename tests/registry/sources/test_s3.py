"""Adapters from an object store: a real endpoint on loopback, asked through the library that is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import Response
from fastapi.responses import RedirectResponse
from manyhats.errors import (
    ConfigurationError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SourceFailed,
    TooLarge,
)
from manyhats.registry.sources import s3
from manyhats.registry.sources.base import Deadline
from manyhats.registry.sources.fetch import FetchLimits
from manyhats.registry.sources.s3 import S3Source, check_available, open_bucket

from tests.hub import serving_hub
from tests.registry.sources.helpers import CONFIG, LONG, WEIGHTS, adapter, bring, content
from tests.s3 import make_bucket, serving_s3

BUCKET = "adapters"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """A running store with one bucket."""
    with serving_s3() as url:
        make_bucket(url, BUCKET)
        yield url


def put(prefix: str, files: dict[str, bytes]) -> None:
    bucket = open_bucket(BUCKET, LONG)
    for name, data in files.items():
        bucket.put(f"{prefix}/{name}", data)


def source(prefix: str) -> S3Source:
    return S3Source(f"s3://{BUCKET}/{prefix}", (f"s3://{BUCKET}/*",))


def test_what_is_fetched_is_what_lies_below_the_prefix(store: str, into: Path) -> None:
    files = adapter() | {"README.md": b"# spam"}
    put("team/spam/7", files | {"optimizer.pt": b"x", "deeper/trainer_state.json": b"{}"})
    put("team/spam/71", adapter(7))  # begins alike, and lies beside it
    found = bring(source("team/spam/7/"), into)
    assert content(into) == files
    assert (found.origin.kind, found.origin.id) == ("s3", f"s3://{BUCKET}/team/spam/7")
    assert found.origin.commit is None
    assert {file.name: file.bytes for file in found.origin.files} == {name: len(data) for name, data in files.items()}
    assert all(len(file.etag) >= 32 for file in found.origin.files)
    assert "optimizer.pt" in found.warnings[0]


def test_names_with_spaces_and_signs(store: str, into: Path) -> None:
    put("odd", {f"my adapter+é%20/{name}": data for name, data in adapter().items()})
    bring(source("odd"), into)
    assert content(into) == adapter()


def test_it_is_checked_before_it_is_read(store: str, into: Path) -> None:
    put("large", adapter(2000))
    put("none", {"model.safetensors": b"x"})
    with pytest.raises(TooLarge, match="at most 1000"):
        bring(source("large"), into, FetchLimits(max_files=8, max_bytes=1000))
    with pytest.raises(InvalidRequest, match="no adapter's configuration"):
        bring(source("none"), into)
    assert content(into) == {}


def test_what_is_not_there(store: str, into: Path) -> None:
    with pytest.raises(NotFound, match="no object below"):
        bring(source("nothing"), into)
    with pytest.raises(NotFound):
        bring(S3Source("s3://no-such-bucket/a", ("s3://*",)), into)


def test_more_objects_than_are_looked_through(store: str, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("many", {f"{number}.json": b"{}" for number in range(12)})
    monkeypatch.setattr(s3, "MAX_ENTRIES", 10)
    with pytest.raises(TooLarge, match="more than 10 objects"):
        bring(source("many"), into)


def test_an_object_that_changes_while_it_is_read(store: str, into: Path) -> None:
    put("changing", adapter())
    found = source("changing")
    deadline = Deadline(LONG)
    files = {file.name: file for file in found.list(deadline).files}
    put("changing", {WEIGHTS: adapter(999)[WEIGHTS]})
    with found.open(files[CONFIG], deadline) as chunks:
        assert b"".join(chunks) == adapter()[CONFIG]
    with pytest.raises(SourceFailed, match="has changed"), found.open(files[WEIGHTS], deadline) as chunks:
        b"".join(chunks)


def test_a_store_that_is_down_or_refuses(store: str, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_RETRIES", 1)
    with serving_hub() as other:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.url)
        for status, error in ((403, PermissionDenied), (500, SourceFailed)):
            other.fault = lambda request, status=status: Response(status_code=status)
            with pytest.raises(error) as raised:
                bring(source("x"), into)
            assert "127.0.0.1" not in raised.value.message
    with pytest.raises(SourceFailed, match="object store cannot be read") as raised:
        bring(source("x"), into)
    assert "127.0.0.1" not in raised.value.message


def test_redirects_end_and_take_no_credentials_along(store: str, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_RETRIES", 1)
    with serving_hub() as other, serving_hub() as elsewhere:
        monkeypatch.setenv("AWS_ENDPOINT_URL", other.url)
        other.fault = lambda request: RedirectResponse(f"{elsewhere.url}/x")
        with pytest.raises((NotFound, SourceFailed)):
            bring(source("x"), into)
        assert {credentials for _, credentials in elsewhere.asked} <= {""}
        other.fault = lambda request: RedirectResponse(str(request.url))
        other.asked.clear()
        with pytest.raises(SourceFailed):
            bring(source("x"), into)
        assert 0 < len(other.asked) < 50


def test_the_library_is_looked_for_when_the_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "find_spec", lambda name: None)
    check_available(("hub:*",))
    with pytest.raises(ConfigurationError, match=r"manyhats\[s3\]"):
        check_available(("s3://bucket/*",))


def test_the_store_of_the_tests_is_reached_by_http(store: str) -> None:
    assert httpx.get(f"{store}/{BUCKET}").status_code == 200
