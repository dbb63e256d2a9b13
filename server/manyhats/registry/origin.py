"""Where a version's files came from, where a source was named for them; an upload by hand has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class OriginFile:
    """One file as the source had it. `bytes`: its size. `etag`: what the source says of its content: a sha256, git's
    object name or an object's ETag; empty where it says nothing."""

    name: str
    bytes: int
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """`kind`: hub, s3 or folder. `id`: `owner/name`, `s3://bucket/prefix`, or the folder. `revision`: as it was asked
    for, and `commit`: what that was then; both of a hub alone. `files`: those that were taken."""

    kind: str
    id: str
    revision: str | None = None
    commit: str | None = None
    files: tuple[OriginFile, ...] = ()

    def __str__(self) -> str:
        """For the audit log, as `hub:owner/name@commit`."""
        kind = "" if self.kind == "s3" else f"{self.kind}:"
        return f"{kind}{self.id}" + (f"@{self.commit}" if self.commit else "")


def origin_of(row: Mapping[str, Any] | None) -> Origin | None:
    """An origin as it is kept."""
    if row is None:
        return None
    files = tuple(OriginFile(**one) for one in row.get("files", ()))
    return Origin(**{**row, "files": files})
