"""Registries over a real S3 endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from manyhats.registry.blobs.choose import choose_blobs
from manyhats.registry.blobs.object_store import ObjectStoreBlobs
from manyhats.registry.registry import Registry

from tests.registry.helpers import inspect
from tests.s3 import Endpoint

PATIENCE = 3.0  # seconds that a request to the store is tried again


@pytest.fixture
def address(s3: Endpoint) -> str:
    """An empty bucket's."""
    return s3.bucket()


@pytest.fixture
def over_s3(address: str, tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    """Opens registries over the bucket, each in the store of its name."""
    left: list[Registry] = []

    def start(name: str = "store", cache: int = 1 << 20, patience: float = PATIENCE) -> Registry:
        store = tmp_path / name
        registry = Registry(store, inspect, blobs=choose_blobs(address, store / ".manyhats", cache, patience))
        registry.open()
        left.append(registry)
        return registry

    yield start
    for registry in left:
        registry.close()


def blobs_of(registry: Registry) -> ObjectStoreBlobs:
    """Its blobs in the object store."""
    assert isinstance(registry.blobs, ObjectStoreBlobs)
    return registry.blobs
