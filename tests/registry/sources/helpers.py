"""Short ways to fetch, and files that look like an adapter's."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from manyhats.registry.sources.base import Deadline, Source
from manyhats.registry.sources.fetch import Fetched, FetchLimits, fetch
from manyhats.registry.sources.hub import HubSource

LIMITS = FetchLimits(max_files=8, max_bytes=1 << 20)
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LONG = 600.0  # seconds


def adapter(size: int = 1000) -> dict[str, bytes]:
    """An adapter's files by their names; `size`: bytes of its tensors."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(size)
    return {CONFIG: b'{"peft_type": "LORA"}', WEIGHTS: weights}


def bring(source: Source, into: Path, limits: FetchLimits = LIMITS, seconds: float = LONG) -> Fetched:
    """Fetches from a source."""
    return fetch(source, into, limits, Deadline(seconds))


def from_hub(name: str = "org/spam", revision: str = "main", hosts: tuple[str, ...] = ()) -> HubSource:
    """A repository as a source."""
    return HubSource(name, revision, ("hub:org/*",), hosts)


def content(folder: Path) -> dict[str, bytes]:
    """What lies in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
