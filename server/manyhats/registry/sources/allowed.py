"""Which sources callers may name: the operator's patterns, and the forms of names that are looked at before them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from manyhats.errors import InvalidRequest, PermissionDenied

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(f"{_WORD}/{_WORD}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_S3 = "s3://"
_LONGEST_KEY = 1024  # bytes, as S3 has it


def is_repository(name: str) -> bool:
    """Whether it has the form of a hub's `owner/name`."""
    return _REPOSITORY.fullmatch(name) is not None and ".." not in name and "--" not in name


def check_repository(name: str, revision: str, allowed: Sequence[str]) -> None:
    """Raises InvalidRequest for what is no `owner/name` or no revision, PermissionDenied for one not allowed."""
    if not is_repository(name):
        raise InvalidRequest(
            f"'{name[:200]}' is no repository of a hub; write owner/name, as my-org/spam", param="source.hub"
        )
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise InvalidRequest(
            f"'{revision[:200]}' is no revision; write a commit, a tag or a branch", param="source.revision"
        )
    _check_allowed(f"hub:{name}", allowed, "source.hub")


def bucket_and_prefix(address: str, allowed: Sequence[str]) -> tuple[str, str]:
    """The bucket and the prefix, without `/` at its end, of `s3://bucket/prefix`.

    Raises InvalidRequest for what is none, PermissionDenied for one not allowed.
    """
    bucket, _, prefix = address.removeprefix(_S3).partition("/")
    prefix = prefix.removesuffix("/")
    parts = prefix.split("/")
    if (
        not address.startswith(_S3)
        or not _BUCKET.fullmatch(bucket)
        or ".." in bucket
        or any(part in ("", ".", "..") for part in parts)
        or not prefix.isprintable()
        or len(prefix.encode()) > _LONGEST_KEY
    ):
        raise InvalidRequest(
            f"'{address[:200]}' is no folder of an object store; write s3://bucket/prefix", param="source.s3"
        )
    _check_allowed(f"{_S3}{bucket}/{prefix}", allowed, "source.s3")
    return bucket, prefix


def _check_allowed(source: str, allowed: Sequence[str], param: str) -> None:
    if not allowed:
        raise PermissionDenied(
            "no source is allowed to be read; the setting allowed_sources names some, as hub:my-org/*", param=param
        )
    if not any(fnmatchcase(source, pattern) for pattern in allowed):
        raise PermissionDenied(f"'{source[:200]}' is not among the sources that may be read", param=param)
