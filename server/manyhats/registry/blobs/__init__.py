"""The files of adapters, by their content: in folders, or in an object store with a local cache."""

from manyhats.registry.blobs.base import Blobs
from manyhats.registry.blobs.contents import check_first_bytes, digest, keep_adapter_files, storage_full

__all__ = ["Blobs", "check_first_bytes", "digest", "keep_adapter_files", "storage_full"]
