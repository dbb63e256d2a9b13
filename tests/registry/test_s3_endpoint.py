"""Where S3 is, as the environment says it."""

from __future__ import annotations

import pytest
from manyhats.registry.s3_endpoint import allows_http, endpoint


@pytest.fixture(autouse=True)
def _none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_variable_the_library_chooses() -> None:
    assert endpoint() is None
    assert not allows_http(endpoint())


def test_the_variable_for_s3_alone_comes_first_and_an_empty_one_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://third:1")
    assert endpoint() == "http://third:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://second:1")
    assert endpoint() == "http://second:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://first:1")
    assert endpoint() == "https://first:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    assert endpoint() == "http://second:1"


@pytest.mark.parametrize(("address", "allowed"), [("http://a:1", True), ("https://a:1", False)])
def test_only_an_address_without_tls_allows_it(address: str, allowed: bool) -> None:
    assert allows_http(address) is allowed
