"""The client reaches this machine's servers."""

from __future__ import annotations

import pytest
from huggingface_hub import constants


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run offline, where the client asks nobody, not even this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
