"""Where the servers that are killed have their adapters' files, and what must be there after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from manyhats.registry.blobs.contents import digest

from tests.commands.asking import run
from tests.s3 import Endpoint


class InFolders:
    """In the store."""

    environment: dict[str, str] | None = None  # of the servers

    def check(self, store: Path, hashes: set[str]) -> None:
        """Nothing is there but the contents of versions."""
        present = {path.name for path in (store / ".manyhats" / "blobs").iterdir()}
        assert present == hashes, f"without a version: {present - hashes}; without files: {hashes - present}"

    def check_content(self, store: Path, sha256: str) -> None:
        """A content has its bytes."""
        assert digest(store / ".manyhats" / "blobs" / sha256) == sha256


class InBucket(InFolders):
    """In an empty bucket. What is not needed is collected each time, without grace."""

    def __init__(self, s3: Endpoint) -> None:
        self.address = s3.bucket()
        self.environment = s3.environment() | {"MANYHATS_BLOBS_URL": self.address}

    def check(self, store: Path, hashes: set[str]) -> None:
        """The contents of versions are there, and after a collection nothing else."""
        from manyhats.registry.blobs.choose import choose_blobs

        if hashes:
            run("gc", "--store", store, "--blobs-url", self.address, "--grace", "0")
            present = set(choose_blobs(self.address, store / ".manyhats").stored())
            assert present == hashes, f"without a version: {present - hashes}; without files: {hashes - present}"

    def check_content(self, store: Path, sha256: str) -> None:
        """A content has its bytes in the bucket, whatever is cached."""
        from manyhats.registry.blobs.choose import choose_blobs

        with tempfile.TemporaryDirectory() as folder:
            blobs = choose_blobs(self.address, Path(folder))
            blobs.open()
            assert blobs.fault(sha256) is None
            blobs.close()
