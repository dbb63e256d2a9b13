"""Writes an adapter in the format that most programs can read: PEFT's, AdapterHub's, or our own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manyhats.formats import adapterhub, manyhats, peft
from manyhats.methods.adapter import Adapter

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def write_adapter(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes into an existing folder."""
    gated = any(part.gated for part in adapter.parts)
    match adapter.method:
        case "lora" | "vera" | "prefix" | "prompt" | "ia3" | "ln" | "token_rows" if not gated:
            peft.write(adapter, folder, backbone)
            manyhats.write_task(adapter, folder, backbone)
        case "bottleneck":
            adapterhub.write(adapter, folder, backbone)
            manyhats.write_task(adapter, folder, backbone)
        case _:
            manyhats.write(adapter, folder, backbone)
