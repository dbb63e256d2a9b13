"""Keeps the memory that one pass frees for the next one.

A pass over 64 sentences frees activations of some megabytes each. GNU's allocator gives such blocks back to the system
at once, which hands out zeroed pages, fault by fault, when the next pass allocates the same blocks: some thousand
faults a pass, 10 to 15 % of its time.

It also gives each thread a heap of its own, up to eight for each processor. Blocks of all sizes come and go in them as
passes, uploads and answers do, and what is free in one is of no use to another: a server that has more tasks than slots
grew by a tenth in twenty minutes. With one heap for all threads it begins smaller and grows less.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h
_MAX_BLOCK = 32 << 20  # bytes of the largest block that is kept; older versions of the C library allow no more
_MAX_FREE = 256 << 20  # bytes at the end of a heap that are kept
_HEAPS = "MALLOC_ARENA_MAX"  # a user's choice of them
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")  # with which a user chooses


def keep_freed_memory() -> bool:
    """Lets the process keep freed blocks, in one heap for the threads that begin later. Returns whether it does: only
    with the GNU C library, and where no environment variable sets its allocator. Devices other than the CPU have
    allocators of their own."""
    if any(os.environ.get(name) for name in _VARIABLES):
        return False
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):  # another C library
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    if not os.environ.get(_HEAPS):
        mallopt(_M_ARENA_MAX, 1)
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAX_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _MAX_FREE))
