"""Host memory with pages of its own, for what is large and stays for a while, as an adapter does.

The allocator would keep it when it is freed, and put small things there that live longer, so that the next block of
that size does not fit; and between what stays there is no place for what a pass needs.

A few freed blocks wait for the next one of their size, as the files of adapters that one recipe trained have one size:
what such a file is read into is freed as soon as its adapter is bound, and the system would fill its pages with zeros
anew for each.
"""

from __future__ import annotations

import mmap
import weakref
from contextlib import suppress

import torch
from torch import Tensor

LEAST = 32 << 10  # bytes from which memory has pages of its own: smaller blocks would waste a part of their last page
MOST = 16 << 10  # such blocks at a time: Linux gives a process 65,530 mappings, and libraries need some too
LARGEST_FREED = 4 << 20  # bytes of a block that waits for the next one of its size
MOST_FREED = 4  # such blocks at a time

_blocks: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # those that are there
_freed: list[mmap.mmap] = []  # those that nobody looks at any more; the oldest first


def empty(size: int) -> Tensor:
    """(size,) uint8 in host memory, with any values. From `LEAST` on the system gets the pages back when the last view
    dies, but for those of the few blocks that wait for the next one of their size, and for what comes beyond `MOST`
    such blocks, which is the allocator's."""
    if size >= LEAST and hasattr(mmap, "MAP_PRIVATE"):
        with suppress(OSError):
            pages = _freed_of(size) or _new(size)
            if pages is not None:
                view = memoryview(pages)
                if size <= LARGEST_FREED:
                    weakref.finalize(view, _free, pages).atexit = False
                return torch.frombuffer(view, dtype=torch.uint8)
    return torch.empty(size, dtype=torch.uint8)


def _new(size: int) -> mmap.mmap | None:
    if len(_blocks) >= MOST:
        return None
    # All pages at once, where the system can do that, in place of a fault for each.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0))
    _blocks.add(pages)
    return pages


def _free(pages: mmap.mmap) -> None:
    """The last view of a block has died. This may be called at any moment and in any thread, so that a lock would be
    waited for by who has it: each change of the list is one step."""
    _freed.append(pages)
    del _freed[: max(len(_freed) - MOST_FREED, 0)]


def _freed_of(size: int) -> mmap.mmap | None:
    """A freed block of exactly that size, which is then not free any more."""
    for pages in tuple(_freed):
        if len(pages) == size:
            with suppress(ValueError):  # another thread has taken it, or it has left
                _freed.remove(pages)
                return pages
    return None
