"""Where blobs are, by the settings."""

from __future__ import annotations

from pathlib import Path

from manyhats.registry.blobs.base import Blobs
from manyhats.registry.blobs.bucket import ADDRESS
from manyhats.registry.blobs.local import LocalBlobs
from manyhats.registry.blobs.object_store import ObjectStoreBlobs

OWN_CACHE = 10 << 30  # bytes


def choose_blobs(address: str, own_folder: Path, cache_bytes: int = OWN_CACHE, patience: float = 20.0) -> Blobs:
    """The blobs at an address: none: in the server's own folder; another folder; or an object store.

    `cache_bytes`, `patience` (seconds): see ObjectStoreBlobs. Raises ConfigurationError where a library is missing.
    """
    if not address:
        return LocalBlobs(own_folder)
    if ADDRESS.fullmatch(address):
        return ObjectStoreBlobs(address, own_folder, cache_bytes, patience)
    return LocalBlobs(Path(address), shared=True)
