"""The types of PEFT's files are what the methods say, and the reader follows a new one without knowing it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.peft.types import PEFT_TYPES
from manyhats.formats.reader import read_adapter
from manyhats.methods.component import Component
from manyhats.methods.libraries.peft import PeftType, claim, linear_in
from manyhats.methods.libraries.peft_fields import INTEGER
from manyhats.methods.libraries.unclaimed import UnclaimedTensors
from manyhats.methods.lora import LoraConfig
from manyhats.methods.registry import METHODS
from safetensors.torch import save_file

SITE = "encoder.layer.0.attention.self.query"


def read_halves(unclaimed: UnclaimedTensors, config: Mapping[str, Any], backbone: Backbone) -> list[Component[Any]]:
    sites, _ = claim(unclaimed, r"(.+)\.half_(A|B)", linear_in(backbone))
    return [Component("lora", LoraConfig(scales=dict.fromkeys(sites, config["halves"] / 2)), sites)]


def refuse_seven(config: Mapping[str, Any]) -> None:
    if config["halves"] == 7:
        raise AdapterMismatch("seven halves cannot be followed", param="halves")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter of a type that no method has."""
    made_up = PeftType("HALVES", read_halves, {"halves": INTEGER}, unsupported={"thirds": INTEGER}, check=refuse_seven)
    monkeypatch.setitem(PEFT_TYPES, made_up.name, made_up)
    name = f"base_model.model.{SITE}"
    save_file(
        {f"{name}.half_A": torch.ones(2, 32), f"{name}.half_B": torch.ones(32, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    write_config(tmp_path, halves=3)
    return tmp_path


def write_config(folder: Path, **fields: Any) -> None:
    config = {"peft_type": "HALVES", "task_type": "FEATURE_EXTRACTION"} | fields
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_every_type_is_of_one_method() -> None:
    names = [peft_type.name for method in METHODS.values() for peft_type in method.peft_types]
    assert sorted(names) == sorted(PEFT_TYPES)


def test_a_new_type_is_read_by_what_its_method_says(bert: Backbone, folder: Path) -> None:
    (component,) = read_adapter(folder, bert).components
    assert component.config == LoraConfig(scales={SITE: 1.5})
    assert set(component.tensors[SITE]) == {"A", "B"}


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"halves": "x"}, InvalidRequest, "halves of adapter_config.json must be a whole number, not 'x'"),
        ({"halves": 3, "thirds": "x"}, InvalidRequest, "thirds of adapter_config.json must be a whole number, not 'x'"),
        ({"halves": 3, "thirds": 2}, AdapterMismatch, "the field 'thirds' of adapter_config.json is set to 2"),
        ({"halves": 3, "r": 8}, AdapterMismatch, "the field 'r' of adapter_config.json is set to 8"),
        ({"halves": 7}, AdapterMismatch, "seven halves cannot be followed"),
    ],
)
def test_fields_of_a_new_type(
    bert: Backbone, folder: Path, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_config(folder, **fields)
    with pytest.raises(error, match=message):
        read_adapter(folder, bert)
