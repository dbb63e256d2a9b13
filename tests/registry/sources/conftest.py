"""A hub, an object store, and adapters' files to put there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub import Hub, serving_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub, which is the one that this process asks."""
    with serving_hub() as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """An empty folder for what is fetched."""
    folder = tmp_path / "files"
    folder.mkdir()
    return folder
