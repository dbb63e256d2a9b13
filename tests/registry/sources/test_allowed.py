"""What callers may name as a source: nothing that the operator has not allowed, and names of one form alone."""

from __future__ import annotations

import pytest
from manyhats.errors import InvalidRequest, PermissionDenied, WrongSetting
from manyhats.registry.sources.allowed import bucket_and_prefix, check_repository
from manyhats.settings import load_settings

ANY = ("hub:*", "s3://bucket/*")


@pytest.mark.parametrize("name", ["org/spam", "Org-1/spam_v2.1", "a/b"])
@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "0123456789abcdef0123456789abcdef01234567"])
def test_repositories_and_revisions(name: str, revision: str) -> None:
    check_repository(name, revision, ANY)


@pytest.mark.parametrize(
    "name",
    [
        "", "spam", "/spam", "org/", "a/b/c", "../spam", "org/..", "org/a..b", "org/a--b", "http://10.0.0.1/x",
        "org/x?a=1", "org/x#y", "org\\x", "org/x y", "org/x\n", "@host/x", "org/" + "x" * 97, "127.0.0.1:80/x",
        "org/%2e%2e", "org/é",
    ],
)  # fmt: skip
def test_what_is_no_repository(name: str) -> None:
    with pytest.raises(InvalidRequest, match="owner/name"):
        check_repository(name, "main", ANY)


@pytest.mark.parametrize("revision", ["", "-x", "a..b", "a//b", "a b", "x\n", "a?b", "x" * 201, "../main"])
def test_what_is_no_revision(revision: str) -> None:
    with pytest.raises(InvalidRequest, match="revision"):
        check_repository("org/spam", revision, ANY)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("org/spam", ()),
        ("org/spam", ("s3://org/*",)),
        ("other/spam", ("hub:org/*",)),
        ("org2/spam", ("hub:org/*",)),
        ("org/spam2", ("hub:org/spam",)),
        ("Org/spam", ("hub:org/*",)),
    ],
)
def test_a_repository_that_is_not_allowed(name: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(PermissionDenied):
        check_repository(name, "main", allowed)


def test_a_bucket_and_a_prefix() -> None:
    assert bucket_and_prefix("s3://bucket/a/b/", ANY) == ("bucket", "a/b")
    assert bucket_and_prefix("s3://bucket/a", ("s3://bucket/a*",)) == ("bucket", "a")


@pytest.mark.parametrize(
    "address",
    [
        "", "s3://", "s3://bucket", "s3://bucket/", "s3:///a", "S3://bucket/a", "http://bucket/a", "file:///etc", "s3://b/a",
        "s3://bucket/../a", "s3://bucket/a/../b", "s3://bucket//a", "s3://bucket/a//b", "s3://bucket/./a", "s3://Bucket/a",
        "s3://buc_ket/a", "s3://user@bucket/a", "s3://bucket:80/a", "s3://buck..et/a", "s3://bucket/a\n",
        "s3://bucket/" + "a" * 1025,
    ],
)  # fmt: skip
def test_what_is_no_prefix(address: str) -> None:
    with pytest.raises(InvalidRequest, match="s3://bucket/prefix"):
        bucket_and_prefix(address, ("s3://*",))


@pytest.mark.parametrize("allowed", [(), ("hub:*",), ("s3://other/*",), ("s3://bucket/team/*",)])
def test_a_prefix_that_is_not_allowed(allowed: tuple[str, ...]) -> None:
    with pytest.raises(PermissionDenied):
        bucket_and_prefix("s3://bucket/teams/a", allowed)


def test_patterns_are_checked_when_the_server_starts() -> None:
    assert load_settings(allowed_sources="hub:org/*, s3://bucket/a*").allowed_sources == ("hub:org/*", "s3://bucket/a*")
    for wrong in ("org/*", "http://example.com/*", "hub:", "s3://bucket", "*", "file:///x"):
        with pytest.raises(WrongSetting, match="allowed_sources"):
            load_settings(allowed_sources=wrong)
