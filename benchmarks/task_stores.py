"""Stores with many tasks of MiniLM, all with contents of their own, put there by the registry itself."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
from manyhats.backbone import Backbone
from manyhats.registry.records import AdapterInfo
from manyhats.registry.registry import Registry
from manyhats.serving.adapter_reader import AdapterReader
from sample_adapters import lora_tensors, write_lora_tasks

USUAL = 1000  # tasks whose adapters are of the usual size; the others' are small
_SMALL = {"r": 1, "target_modules": ["query", "value"]}


def task_name(number: int) -> str:
    """The name of a task."""
    return f"task-{number:06d}"


def make_store(store: Path, count: int, backbone: Backbone) -> None:
    """A store with so many tasks, each uploaded as any other; small adapters, all of one shape, are inspected once."""
    reader = AdapterReader(backbone, 1024)
    known: list[AdapterInfo] = []

    def inspect(folder: Path, kind: Any) -> AdapterInfo:
        small = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] == _SMALL["r"]
        if not small:
            return reader.inspect(folder, kind)
        if not known:
            known.append(reader.inspect(folder, kind))
        return replace(known[0])

    registry = Registry(store, inspect, max_tasks=10_000_000)
    reader.registry = registry
    registry.open()
    card = _card()
    with tempfile.TemporaryDirectory(dir=store) as temporary:
        usual = write_lora_tasks(Path(temporary), min(count, USUAL))
        config = json.loads((usual[0] / "adapter_config.json").read_text(encoding="utf-8"))
        for number in range(count):
            with registry.stage() as staged:
                if number < len(usual):
                    for file in usual[number].iterdir():
                        (staged / file.name).write_bytes(file.read_bytes())
                else:
                    tensors = lora_tensors(number, rank=1, targets=("query", "value"))
                    safetensors.torch.save_file(tensors, staged / "adapter_model.safetensors")
                    (staged / "adapter_config.json").write_text(json.dumps(config | _SMALL), encoding="utf-8")
                (staged / "README.md").write_text(card, encoding="utf-8")
                registry.add_version(task_name(number), staged)
    registry.close()


def _card() -> str:
    """The model card that PEFT fills in for an adapter."""
    spec = find_spec("huggingface_hub")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "templates" / "modelcard_template.md").read_text(encoding="utf-8")
