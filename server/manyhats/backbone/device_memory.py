"""What a device says of its memory."""

from __future__ import annotations

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on the device now; None where it does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
    return None
