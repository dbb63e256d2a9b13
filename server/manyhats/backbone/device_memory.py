"""What a device says of its memory."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch

# What torch says on devices whose allocators raise a plain RuntimeError: CPU, and MPS.
_SAYINGS = ("out of memory", "can't allocate memory", "not enough memory")


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


def free_host_memory() -> int:
    """Bytes of the machine that processes can have without swapping; 0 where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 0


def host_memory() -> DeviceMemory | None:
    """The memory of the machine now; None where the system does not say."""
    free = free_host_memory()
    return DeviceMemory(free, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if free else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the host or on the device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in _SAYINGS)


def in_gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB"
