"""What the reader of adapters takes into the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch
from manyhats.formats.writer import write_adapter
from manyhats.registry.registry import Registry
from manyhats.serving.adapter_reader import AdapterReader

from tests import tiny


@pytest.fixture
def folder(bert: Backbone, tmp_path: Path) -> Path:
    """A LoRA of rank 3."""
    staged = tmp_path / "staged"
    staged.mkdir()
    write_adapter(tiny.adapter(bert, "lora", 1), staged, bert)
    return staged


def reader(backbone: Backbone, max_rank: int, store: Path) -> AdapterReader:
    made = AdapterReader(backbone, max_rank)
    made.registry = Registry(store, made.inspect)
    return made


def test_an_adapter_of_the_highest_rank_is_taken(bert: Backbone, folder: Path, tmp_path: Path) -> None:
    assert reader(bert, 3, tmp_path / "store").inspect(folder).rank == 3


def test_a_higher_rank_is_refused_with_both_numbers(bert: Backbone, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatch, match=r"rank is 3; max_rank allows at most 2") as refused:
        reader(bert, 2, tmp_path / "store").inspect(folder)
    assert refused.value.param == "rank"
