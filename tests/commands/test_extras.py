"""Which optional libraries are installed."""

from __future__ import annotations

from email.message import Message
from importlib import metadata

import pytest
from manyhats.commands.extras import extras

ASKED = (
    "numpy>=2.0",
    'scikit-learn>=1.6; extra == "train"',
    'numpy>=1; extra == "train"',
    'gguf>=9; extra == "decoder"',
    'triton; sys_platform == "no-such" and extra == "cuda"',
    'pytest; extra == "test"',
)
VERSIONS = {"numpy": "2.1", "gguf": "0.17"}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    about = Message()
    for name in ("train", "decoder", "cuda", "test"):
        about["Provides-Extra"] = name
    for line in ASKED:
        about["Requires-Dist"] = line

    def version(name: str) -> str:
        if name not in VERSIONS:
            raise metadata.PackageNotFoundError(name)
        return VERSIONS[name]

    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.usefixtures("package")
def test_what_is_missing_is_named() -> None:
    assert extras() == {
        "cuda": "installed",  # asks for nothing on this system
        "decoder": "gguf is 0.17, not >=9",
        "train": "scikit-learn is not installed",
    }


def test_a_server_from_its_sources_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def metadata_of(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", metadata_of)
    assert extras() == {}
