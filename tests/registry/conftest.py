"""A registry in an empty store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from manyhats.registry.registry import Registry

from tests.registry.helpers import inspect


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store."""
    return tmp_path / "store"


@pytest.fixture
def opened() -> Iterator[Callable[..., Registry]]:
    """Opens registries, and closes those that a test leaves open."""
    left: list[Registry] = []

    def start(store: Path, **options: object) -> Registry:
        registry = Registry(store, inspect, **options)  # type: ignore[arg-type]
        registry.open()
        left.append(registry)
        return registry

    yield start
    for registry in left:
        registry.close()


@pytest.fixture
def registry(store: Path, opened: Callable[..., Registry]) -> Registry:
    """An open registry in an empty store."""
    return opened(store)
