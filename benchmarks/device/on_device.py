"""A pytest plugin: the tests' tiny backbones stand on the device that TESTS_DEVICE names (default cuda);
the tests take all variables of the server's own away.

PYTHONPATH=benchmarks TESTS_DEVICE=cuda python -m pytest -p device.on_device tests/api/test_generation.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from manyhats.backbone import Backbone

from tests import tiny


def pytest_configure(config: pytest.Config) -> None:
    """Loads every tiny backbone there."""
    device = os.environ.get("TESTS_DEVICE", "cuda")
    patch, plain, tiny_load = pytest.MonkeyPatch(), Backbone.load, tiny.load
    config.add_cleanup(patch.undo)

    def load(folder: Path) -> Backbone:
        def there(name: str, **given: Any) -> Backbone:
            return plain(name, **(given | {"device": device}))

        with pytest.MonkeyPatch.context() as within:
            within.setattr(Backbone, "load", staticmethod(there))
            return tiny_load(folder)

    patch.setattr(tiny, "load", load)
