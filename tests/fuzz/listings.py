"""What a hub lists: names and sizes that somebody else has chosen."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from manyhats.errors import InvalidRequest, SourceFailed
from manyhats.registry.sources.fetch import FetchLimits, choose
from manyhats.registry.sources.hub import parse_listing

from tests.fuzz.contract import Broken, Check

_LIMITS = FetchLimits(max_files=8, max_bytes=1 << 20)


def listing() -> Check:
    """The files of an adapter in a list: each has a place inside the folder, and all are within the limits."""

    def check(data: bytes) -> None:
        try:
            _, files = parse_listing(data)
            chosen, warnings = choose(files, _LIMITS)
        except SourceFailed as error:  # the hub's fault, not the caller's
            raise InvalidRequest(error.message) from None
        for place in chosen:
            path = PurePosixPath(place)
            if path.is_absolute() or ".." in path.parts or len(path.parts) > 8:
                raise Broken(f"a file would be written to {place!r}")
        if len(chosen) > _LIMITS.max_files or sum(file.size for file in chosen.values()) > _LIMITS.max_bytes:
            raise Broken("more would be fetched than the limits allow")
        for warning in warnings:
            warning.encode()

    return check


def listing_seeds() -> list[bytes]:
    def body(*names: str, lfs: bool = False) -> bytes:
        files = [
            {
                "rfilename": name,
                "size": 9,
                "blobId": "1" * 40,
                **({"lfs": {"sha256": "2" * 64, "size": 9}} if lfs else {}),
            }
            for name in names
        ]
        return json.dumps({"sha": "0" * 40, "siblings": files}).encode()

    adapter = ("adapter_config.json", "adapter_model.safetensors", "README.md")
    return [
        body(*adapter),
        body(*(f"checkpoint-10/{name}" for name in adapter), "optimizer.pt", lfs=True),
        body("../adapter_config.json", "a/b/c/d/e/adapter_config.json"),
    ]
