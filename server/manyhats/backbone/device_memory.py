"""What a device says of its memory."""

from __future__ import annotations

from typing import NamedTuple

import torch


class DeviceMemory(NamedTuple):
    """Bytes of a device."""

    free: int
    total: int

    def __str__(self) -> str:
        return f"{in_gib(self.free)} of {in_gib(self.total)} free"


def device_memory(device: torch.device) -> DeviceMemory | None:
    """The memory of a device now; None of one that does not say, as a CPU's is the machine's.

    What torch has reserved on CUDA and does not use is free too.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return DeviceMemory(free + unused, total)
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return DeviceMemory(max(total - torch.mps.driver_allocated_memory(), 0), total)
    return None


def in_gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB"
