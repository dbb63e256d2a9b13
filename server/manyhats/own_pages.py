"""Host memory with pages of its own, for what is large and stays for a while, as an adapter does.

The allocator would keep it when it is freed, and put small things there that live longer, so that the next block of
that size does not fit; and between what stays there is no place for what a pass needs.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from weakref import WeakSet

import torch
from torch import Tensor

LEAST = 32 << 10  # bytes from which memory has pages of its own: smaller blocks would waste a part of their last page
MOST = 16 << 10  # such blocks at a time: Linux gives a process 65,530 mappings, and libraries need some too

_blocks: WeakSet[mmap.mmap] = WeakSet()  # those that are there


def empty(size: int) -> Tensor:
    """(size,) uint8 in host memory, with any values. From `LEAST` on the system gets the pages back when the last view
    dies, but for what comes beyond `MOST` such blocks, which is the allocator's."""
    if size >= LEAST and len(_blocks) < MOST and hasattr(mmap, "MAP_PRIVATE"):
        with suppress(OSError):
            # All pages at once, where the system can do that, in place of a fault for each.
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0))
            _blocks.add(pages)
            return torch.frombuffer(pages, dtype=torch.uint8)
    return torch.empty(size, dtype=torch.uint8)
