"""Fields that other programs and other versions write into PEFT's config, and types of tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter

from tests import tiny
from tests.formats.test_refusals import edit_json, edit_tensors, refused


@pytest.fixture
def wrote(bert: Backbone, tmp_path: Path) -> Callable[[str], Path]:
    """Writes a classifier of a method."""

    def write(method: str) -> Path:
        write_adapter(tiny.adapter(bert, method, 3, kind="classify"), tmp_path, bert)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "fields",
    [
        {"unsloth_fixed": True},
        {"unsloth": {"version": "2025.1"}},
        {"use_original_init": False},
        {"_from_model_config": True},
        {"torch_dtype": "bfloat16"},
        {"lora_dtype": "float32"},
        {"quantization_config": {"load_in_4bit": True}},
        {"merge_weights": True, "enable_lora": None},
        {"lora_nums": 1},
        {"peft_version": "99.0"},
        {"init_lora_weights": "gaussian"},
        {"target_modules": None, "use_rslora": None, "velora_config": None, "trainable_token_indices": []},
        {"peft_type": "lora", "task_type": "seq_cls"},
        {"peft_type": "PeftType.LORA", "task_type": "TaskType.SEQ_CLS"},
    ],
)
def test_what_changes_no_answer_is_passed_over(wrote, bert: Backbone, fields: dict[str, Any]) -> None:
    folder, texts = wrote("lora"), tiny.texts([4])
    expected = read_adapter(folder, bert)
    edit_json(folder / "adapter_config.json", **fields)
    adapter = read_adapter(folder, bert)
    assert (adapter.kind, adapter.warnings) == (expected.kind, ())
    assert tiny.difference(tiny.ask(bert, adapter, texts), tiny.ask(bert, expected, texts)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"arrow_config": {"top_k": 2}},
        {"use_bdlora": {"nblocks": 2}},
        {"lora_nums": 3},
        {"enable_lora": [True, False, True]},
        {"layer_replication": [[0, 1], [0, 1]]},
        {"alora_invocation_tokens": [1]},
        {"something_new": "x"},
    ],
)
def test_what_may_change_an_answer_is_refused_by_name(wrote, bert: Backbone, fields: dict[str, Any]) -> None:
    folder = wrote("lora")
    edit_json(folder / "adapter_config.json", **fields)
    (name,) = fields
    assert refused(folder, bert, AdapterMismatch, f"'{name}'").param == name


@pytest.mark.parametrize("name", ["adapter_config.json", "manyhats.json", "head_config.json"])
def test_a_byte_order_mark_is_no_part_of_json(wrote, bert: Backbone, name: str) -> None:
    folder = wrote({"adapter_config.json": "lora", "manyhats.json": "mask", "head_config.json": "bottleneck"}[name])
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    read_adapter(folder, bert)


@pytest.mark.parametrize(
    ("dtype", "told"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2"), (torch.int8, "I8")]
)
def test_types_that_are_not_read_are_named(wrote, bert: Backbone, dtype: torch.dtype, told: str) -> None:
    folder = wrote("lora")
    edit_tensors(folder / "adapter_model.safetensors", lambda t: t.update({n: v.to(dtype) for n, v in t.items()}))
    refused(folder, bert, InvalidRequest, f"has the type {told}, which is not supported")
