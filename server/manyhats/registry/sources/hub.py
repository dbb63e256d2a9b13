"""A repository on a Hugging Face hub, at one commit. The hub's address is the operator's: `HF_ENDPOINT`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Annotated
from urllib.parse import quote

from huggingface_hub import constants, get_token, hf_hub_url
from pydantic import BaseModel, Field, ValidationError

from manyhats.errors import PermissionDenied, SourceFailed
from manyhats.messages import first_error
from manyhats.registry.origin import Origin
from manyhats.registry.sources.allowed import check_repository
from manyhats.registry.sources.base import MAX_ENTRIES, Deadline, Listing, RemoteFile
from manyhats.registry.sources.hub_http import HubClient

MAIN = "main"
_QUOTED = 200  # characters
_ANSWER_LIMIT = 8 << 20  # bytes of a repository's list of files

_Size = Annotated[int, Field(ge=0, lt=1 << 50)]
_Hex = Annotated[str, Field(pattern=re.compile(r"^[0-9a-f]{40}$"))]


class _Lfs(BaseModel):
    sha256: Annotated[str, Field(pattern=re.compile(r"^[0-9a-f]{64}$"))]
    size: _Size


class _File(BaseModel):
    name: Annotated[str, Field(alias="rfilename", max_length=1000)]
    size: _Size | None = None
    blob: Annotated[str, Field(alias="blobId", max_length=100)] = ""
    lfs: _Lfs | None = None


class _Info(BaseModel):
    commit: Annotated[_Hex, Field(alias="sha")]
    files: Annotated[list[_File], Field(alias="siblings", max_length=MAX_ENTRIES)]


def hub_endpoint() -> str:
    """The hub's address, without `/` at its end: `HF_ENDPOINT`, or the public hub's."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


class HubSource:
    """`repository` (`owner/name`) at `revision`: a commit, a tag or a branch, which the list resolves to a commit.

    `hosts`: where the hub may redirect to. Raises what `check_repository` raises, and PermissionDenied where this
    process was told to ask no hub (`HF_HUB_OFFLINE`).
    """

    def __init__(self, repository: str, revision: str, allowed: Sequence[str], hosts: Sequence[str]) -> None:
        check_repository(repository, revision, allowed)
        if constants.HF_HUB_OFFLINE:
            raise PermissionDenied("this server was started with HF_HUB_OFFLINE: it asks no hub", param="source.hub")
        self._repository = repository
        self._revision = revision
        self._endpoint = hub_endpoint()
        self._client = HubClient(self._endpoint, get_token(), hosts)
        self._commit = ""

    def list(self, deadline: Deadline) -> Listing:
        """The files at the commit that the revision is now."""
        revision = quote(self._revision, safe="")
        address = f"{self._endpoint}/api/models/{self._repository}/revision/{revision}?blobs=true"
        body = self._client.read(address, _ANSWER_LIMIT, deadline)
        self._commit, files = parse_listing(body)
        return Listing(Origin("hub", self._repository, self._revision, self._commit), files)

    def open(self, file: RemoteFile, deadline: Deadline) -> AbstractContextManager[Iterator[bytes]]:
        """A file's bytes at that commit."""
        address = hf_hub_url(self._repository, file.name, revision=self._commit, endpoint=self._endpoint)
        return self._client.stream(address, deadline)


def parse_listing(body: bytes) -> tuple[str, tuple[RemoteFile, ...]]:
    """The commit, and the files of a hub's answer. Raises SourceFailed for what is none."""
    try:
        info = _Info.model_validate_json(body)
    except ValidationError as error:
        first = first_error(error)
        where = f"{first.field[:_QUOTED]}: " if first.field else ""
        raise SourceFailed(
            f"the hub's list of files cannot be read: {where}{first.reason[:_QUOTED]}", param="source"
        ) from None
    return info.commit, tuple(map(_remote, info.files))


def _remote(file: _File) -> RemoteFile:
    if file.lfs is not None:
        return RemoteFile(file.name, file.lfs.size, sha256=file.lfs.sha256, etag=file.lfs.sha256)
    if file.size is None:
        raise SourceFailed(f"the hub does not say how large '{file.name[:200]}' is", param="source")
    git = file.blob if re.fullmatch(r"[0-9a-f]{40}", file.blob) else None
    return RemoteFile(file.name, file.size, git_sha1=git, etag=file.blob)
