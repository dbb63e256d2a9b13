"""What a full disk is, whoever was writing."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manyhats.errors import ManyhatsError, StorageFull

# What a disk, a quota or a limit on the size of files says that has no space left.
_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How safetensors and SQLite say it, whose errors have no number of the operating system's.
_TEXTS = ("No space left", "database or disk is full")


def is_full(error: BaseException) -> bool:
    """Whether writing failed for want of disk space."""
    # SQLAlchemy wraps the driver's error; its own text has the statement's values in it, which may say anything.
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "errno", None) in _ERRNOS or any(text in str(cause) for text in _TEXTS)


@contextmanager
def full_disk_as_storage_full(message: Callable[[Exception], str]) -> Iterator[None]:
    """Raises StorageFull with `message` in place of whatever error says that the disk is full."""
    try:
        yield
    except ManyhatsError:
        raise
    except Exception as error:
        if is_full(error):
            raise StorageFull(message(error)) from error
        raise
