"""How much of the device's memory slots may take, where no setting says it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from manyhats.backbone.device_memory import device_memory, in_gib

ELSEWHERE = 2 << 30  # bytes, where a device does not say what is free for it alone
SHARE = 0.5  # of what is free on a CUDA device; the rest is for what passes compute


class SlotMemory(NamedTuple):
    """The bytes that slots may take, and why."""

    limit: int
    why: str

    def __str__(self) -> str:
        return f"{in_gib(self.limit)}, {self.why}"


def slot_memory(given: int, device: torch.device, cache_bytes: int = 0) -> SlotMemory:
    """The bytes of slots: those that a setting gives, else a share of what is free now, or a fixed number.

    `cache_bytes`: that keys and values will take; the backbone is on the device already.
    """
    if given:
        return SlotMemory(given, "as the setting says")
    memory = device_memory(device) if device.type == "cuda" else None
    if memory is None:
        return SlotMemory(ELSEWHERE, f"the default on {device.type}")
    limit = int(max(memory.free - cache_bytes, 0) * SHARE)
    beside = f", without {in_gib(cache_bytes)} for keys and values" if cache_bytes else ""
    return SlotMemory(limit, f"half of the {in_gib(memory.free)} that are free on {device}{beside}")
