"""Writes an adapter in the format that most programs can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manyhats.core.adapter import Adapter
from manyhats.formats.registry import COMPANIONS, FORMATS

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


def write_adapter(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes into an existing folder. Raises InvalidRequest for what the format cannot store."""
    format = next(format for format in reversed(FORMATS) if format.holds(adapter, backbone))
    format.write(adapter, folder, backbone)
    if not format.complete:
        for companion in COMPANIONS:
            companion.write(adapter, folder, backbone)
