"""Adapter folders and an `inspect` that need neither torch nor a backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manyhats.errors import AdapterMismatch
from manyhats.registry.records import AdapterInfo, TaskSettings, Version
from manyhats.registry.registry import Registry


def write_adapter(folder: Path, content: str = "one", **config: Any) -> Path:
    """An adapter folder whose weights hold `content`. `config` goes into its adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    (folder / "adapter_model.safetensors").write_bytes(b"\0weights:" + content.encode())
    return folder


def inspect(folder: Path, kind: str | None = None) -> AdapterInfo:
    """Takes any folder with an adapter_config.json, at its root or one level down, but those marked `bad`."""
    found = sorted([*folder.glob("adapter_config.json"), *folder.glob("*/adapter_config.json")])
    if not found:
        raise AdapterMismatch("no adapter_config.json")
    config = json.loads(found[0].read_text())
    if config.get("bad"):
        raise AdapterMismatch("the adapter is marked bad")
    labels = config.get("labels")
    return AdapterInfo(
        method="lora",
        kind="classify",
        rank=8,
        matched_tensors=1,
        bytes=sum(path.stat().st_size for path in folder.rglob("*.safetensors")),
        base=None,
        labels=tuple(labels) if labels else None,
        card=None,
        settings=config.get("brought", {}),
        num_labels=len(labels) if labels else None,
    )


def upload(
    registry: Registry,
    task: str,
    content: str,
    *,
    alias: str = "stable",
    activate: bool = True,
    settings: TaskSettings | None = None,
    **config: Any,
) -> Version:
    """Uploads an adapter that holds `content`."""
    with registry.stage() as folder:
        write_adapter(folder, content, **config)
        return registry.add_version(task, folder, alias=alias, activate=activate, settings=settings)[0]


def blobs(store: Path) -> set[str]:
    """The blobs in a store."""
    return {path.name for path in (store / ".manyhats" / "blobs").iterdir()}


def staged(store: Path) -> list[Path]:
    """What lies in a store's staging."""
    return list((store / ".manyhats" / "staging").iterdir())
