"""Who has which rows of the key-value cache: blocks of rows, counted, and found again by what they hold.

A block that is full of known content is remembered by a key, which names the adapter's digest and all content up to the
block's end. When nobody needs it any more it stays until its room is needed, the longest unused going first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

BLOCK = 16  # rows

Key = bytes


class BlockPool:
    """Blocks `0 .. count - 1`. Not thread-safe: the model's thread alone uses it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._known: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered, and used by nobody

    @property
    def available(self) -> int:
        """Blocks that can be taken."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that somebody uses."""
        return self.count - self.available

    def take(self) -> int | None:
        """A block for its taker alone; None where there is none."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            del self._known[self._keys.pop(block)]
        else:
            return None
        self._users[block] = 1
        return block

    def remember(self, block: int, key: Key) -> None:
        """From now on the block can be found by what it holds; the first of equal ones is kept."""
        if key not in self._known and block not in self._keys:
            self._known[key] = block
            self._keys[block] = key

    def knows(self, key: Key) -> bool:
        """Whether `find` would find it."""
        return key in self._known

    def find(self, key: Key) -> int | None:
        """The block that holds this, with one user more; None where there is none."""
        block = self._known.get(key)
        if block is None:
            return None
        self._users[block] += 1
        self._idle.pop(block, None)
        return block

    def give_back(self, blocks: Sequence[int]) -> None:
        """One user less for each. The last blocks of a text are the first to go."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._keys:
                self._idle[block] = None
            else:
                self._free.append(block)


def first_key(digest: str) -> Key:
    """What stands before all content of an adapter. `digest`: names its weights."""
    return hashlib.blake2b(digest.encode(), digest_size=16).digest()


def next_key(before: Key, content: Sequence[int]) -> Key:
    """The key of a block: all before it, and what it holds."""
    data = np.asarray(content, dtype=np.int64).tobytes()
    return hashlib.blake2b(before + data, digest_size=16).digest()


def rows_of(blocks: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The blocks' rows, in order."""
    own = np.asarray(blocks, dtype=np.int64)[:, None] * BLOCK + np.arange(BLOCK)[None]
    return own.reshape(-1)
