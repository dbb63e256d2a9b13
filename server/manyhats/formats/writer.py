"""Writes an adapter in the format that most programs can read: PEFT's, AdapterHub's, or our own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manyhats.core.adapter import Adapter
from manyhats.formats.adapterhub import writer as adapterhub
from manyhats.formats.native import writer as own
from manyhats.formats.peft import writer as peft

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def write_adapter(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes into an existing folder."""
    if peft.holds(adapter, backbone):
        peft.write(adapter, folder, backbone)
        own.write_task(adapter, folder, backbone)
    elif adapter.method == "bottleneck":
        adapterhub.write(adapter, folder, backbone)
        own.write_task(adapter, folder, backbone)
    else:
        own.write(adapter, folder, backbone)
