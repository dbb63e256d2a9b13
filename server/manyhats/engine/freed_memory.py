"""Keeps the memory that one pass frees for the next one.

A pass over 64 sentences frees activations of some megabytes each. GNU's allocator gives such blocks back to the system
at once, which hands out zeroed pages, fault by fault, when the next pass allocates the same blocks: some thousand
faults a pass, 10 to 15 % of its time.

It also gives each thread a heap of its own, up to eight for each processor. Blocks of all sizes come and go in them as
passes, uploads and answers do, and what is free in one is of no use to another: a server that has more tasks than slots
grew by a tenth in twenty minutes. So all threads have one heap. What is free in it lies between blocks that stay, and
there is ever more of it until it suffices for any pass; the pages of these holes are given back now and then.
"""

from __future__ import annotations

import ctypes
import os
import time

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_MAX_BLOCK = 32 << 20  # bytes of the largest block that is kept; older versions of the C library allow no more
_MAX_FREE = 256 << 20  # bytes at the end of a heap that are kept
_BETWEEN = 30.0  # seconds between two returns of pages, which take some milliseconds for each 100 MB
_LEAST = 64 << 20  # bytes that are free, for which it is worth it
_HEAPS = "MALLOC_ARENA_MAX"  # a user's choice of them
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")  # with which a user chooses


def keep_freed_memory() -> bool:
    """Lets the process keep freed blocks, in one heap for the threads that begin later. Returns whether it does: only
    with the GNU C library, and where no environment variable sets its allocator. Devices other than the CPU have
    allocators of their own."""
    library = _gnu()
    if library is None:
        return False
    mallopt = library.mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    if not os.environ.get(_HEAPS):
        mallopt(_M_ARENA_MAX, 1)
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAX_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _MAX_FREE))


def _gnu() -> ctypes.CDLL | None:
    """The GNU C library; None where it is another, or its allocator is set by an environment variable."""
    if any(os.environ.get(name) for name in _VARIABLES):
        return None
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version
    except (OSError, TypeError, AttributeError):
        return None
    return library


class _Figures(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


class FreedMemory:
    """Gives pages back that lie free between blocks of the heap. Does nothing where `keep_freed_memory` does not, and
    before version 2.33 of the GNU C library, which does not tell how much is free."""

    def __init__(self) -> None:
        library = _gnu()
        self._library = library if hasattr(library, "mallinfo2") else None
        self._next = time.monotonic() + _BETWEEN
        if self._library is not None:
            self._library.mallinfo2.restype = _Figures
            self._library.malloc_trim.argtypes = [ctypes.c_size_t]

    def look(self) -> None:
        """Does so where it is time, and there is enough. From any thread; others can allocate nothing meanwhile."""
        if self._library is None or time.monotonic() < self._next:
            return
        if self._library.mallinfo2().fordblks >= _LEAST:
            self._library.malloc_trim(0)
        self._next = time.monotonic() + _BETWEEN
