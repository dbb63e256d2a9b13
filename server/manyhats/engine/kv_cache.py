"""Who has which rows of the key-value cache: blocks of rows, counted, and found again by what they hold.

A block that is full of known content is cached under a hash, which names the adapter's digest and all content up to the
block's end. When nobody needs it any more it stays until its room is needed, the longest unused going first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence as Many

import numpy as np
import torch
from numpy.typing import NDArray

from manyhats.backbone import Backbone
from manyhats.backbone.cache import KeyValueCache
from manyhats.core.sequence import Sequence
from manyhats.methods.bound_adapter import BoundAdapter

BLOCK = 16  # rows

BlockHash = bytes


class BlockPool:
    """Blocks `0 .. count - 1`. Not thread-safe: the model's thread alone uses it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._cached: dict[BlockHash, int] = {}
        self._hashes: dict[int, BlockHash] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached, and used by nobody

    @property
    def available(self) -> int:
        """Blocks that can be allocated."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that somebody uses."""
        return self.count - self.available

    def allocate(self) -> int | None:
        """A block for its user alone; None where there is none."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            del self._cached[self._hashes.pop(block)]
        else:
            return None
        self._users[block] = 1
        return block

    def cache(self, block: int, block_hash: BlockHash) -> None:
        """From now on the block can be found by what it holds; the first of equal ones is kept."""
        if block_hash not in self._cached and block not in self._hashes:
            self._cached[block_hash] = block
            self._hashes[block] = block_hash

    def contains(self, block_hash: BlockHash) -> bool:
        """Whether `lookup` would find it."""
        return block_hash in self._cached

    def lookup(self, block_hash: BlockHash) -> int | None:
        """The block that holds this, with one user more; None where there is none."""
        block = self._cached.get(block_hash)
        if block is None:
            return None
        self._users[block] += 1
        self._idle.pop(block, None)
        return block

    def free(self, blocks: Many[int]) -> None:
        """One user less for each. The last blocks of a sequence are the first to go."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._hashes:
                self._idle[block] = None
            else:
                self._free.append(block)


def root_hash(digest: str) -> BlockHash:
    """What stands before all content of an adapter. `digest`: names its weights."""
    return hashlib.blake2b(digest.encode(), digest_size=16).digest()


def chained_hash(before: BlockHash, content: Many[int]) -> BlockHash:
    """The hash of a block: all before it, and what it holds."""
    data = np.asarray(content, dtype=np.int64).tobytes()
    return hashlib.blake2b(before + data, digest_size=16).digest()


def slot_mapping(blocks: Many[int]) -> NDArray[np.int64]:
    """The blocks' rows of the cache, in order."""
    own = np.asarray(blocks, dtype=np.int64)[:, None] * BLOCK + np.arange(BLOCK)[None]
    return own.reshape(-1)


def blocks_for(positions: int) -> int:
    """How many blocks hold so many positions."""
    return -(-positions // BLOCK)


class KVCache:
    """Keys and values of the sequences under way. The model's thread alone uses it.

    `cache_bytes`: room for keys and values.
    """

    def __init__(self, backbone: Backbone, cache_bytes: int) -> None:
        self.backbone = backbone
        row = KeyValueCache.row_bytes(backbone.layers, backbone.kv_shape, backbone.dtype)
        self.pool = BlockPool(max(cache_bytes // (row * BLOCK), 1))
        self._tensors: KeyValueCache | None = None
        self.reused = 0  # tokens of prompts that were found in the cache

    @property
    def tensors(self) -> KeyValueCache:
        """Made when the first sequence needs them."""
        if self._tensors is None:
            b = self.backbone
            self._tensors = KeyValueCache(self.pool.count * BLOCK, b.layers, b.kv_shape, b.device, b.dtype)
        return self._tensors

    def capacity(self, adapter: BoundAdapter) -> int:
        """The most tokens that one sequence may have, its virtual tokens and its adapter's prefix left out. May be
        called from any thread."""
        if adapter.non_causal:
            return self.backbone.max_tokens
        return (self.pool.count - blocks_for(adapter.prefix_rows)) * BLOCK - adapter.virtual_tokens

    def reset(self) -> None:
        """Forgets all sequences and all that is cached, whatever state they are in."""
        self.pool = BlockPool(self.pool.count)

    def block_hashes(self, sequence: Sequence) -> list[BlockHash]:
        """Of the full blocks of what is to be read; at least one token is left to compute."""
        if sequence.adapter.non_causal:
            return []
        full = (sequence.length - 1) // BLOCK
        known = sequence.block_hashes
        for i in range(len(known), full):
            before = known[-1] if known else root_hash(sequence.request.digest)
            known.append(chained_hash(before, sequence.content(i * BLOCK, (i + 1) * BLOCK)))
        return known[:full]

    def first_missing(self, sequence: Sequence) -> BlockHash | None:
        """The first of its full blocks that is not in the cache; None where all are."""
        return next((one for one in self.block_hashes(sequence) if not self.pool.contains(one)), None)

    def unread(self, sequence: Sequence) -> set[BlockHash]:
        """Its full blocks that it is about to fill."""
        if sequence.length - sequence.computed <= 1:
            return set()
        return set(self.block_hashes(sequence)[sequence.computed // BLOCK :])

    def begin(self, sequence: Sequence) -> bool:
        """Gives a sequence its adapter's prefix and what the cache knows of its beginning; False where there is no
        room. Raises what the adapter's prefix raises; the sequence has no blocks then."""
        if sequence.adapter.non_causal:
            return True
        if not self._share_prefix(sequence):
            return False
        for one in [] if sequence.unscored else self.block_hashes(sequence):  # the cache has no logits
            block = self.pool.lookup(one)
            if block is None:
                break
            sequence.blocks.append(block)
        sequence.computed = len(sequence.blocks) * BLOCK
        if sequence.computed < sequence.virtual:  # its virtual tokens are entered in one piece
            self.pool.free(sequence.blocks)
            sequence.blocks, sequence.computed = [], 0
        self.reused += max(sequence.computed - sequence.virtual, 0)
        self._map_slots(sequence)
        return True

    def grow(self, sequence: Sequence, length: int) -> bool:
        """Blocks for so many positions; False where there are not enough, and those that there are stay allocated."""
        missing = blocks_for(length) - len(sequence.blocks)
        if missing <= 0:
            return True
        for _ in range(missing):
            block = self.pool.allocate()
            if block is None:
                return False
            sequence.blocks.append(block)
        self._map_slots(sequence)
        return True

    def computed(self, sequence: Sequence, positions: int) -> None:
        """So many more of its positions are in the cache: blocks that became full can be found from now on."""
        sequence.computed += positions
        full = self.block_hashes(sequence)[: sequence.computed // BLOCK]
        for i in range(sequence.cached_blocks, len(full)):
            self.pool.cache(sequence.blocks[i], full[i])
        sequence.cached_blocks = len(full)

    def free(self, sequence: Sequence) -> None:
        """Gives up its blocks and its part of the prefix."""
        self.pool.free(sequence.prefix_blocks)
        self.pool.free(sequence.blocks)
        sequence.prefix_blocks, sequence.blocks, sequence.computed, sequence.cached_blocks = [], [], 0, 0

    def _share_prefix(self, sequence: Sequence) -> bool:
        """The rows of the adapter's prefix, which all its sequences see and which are stored once."""
        sequence.prefix_rows = sequence.adapter.prefix_rows
        count = blocks_for(sequence.prefix_rows)
        start = root_hash(f"prefix {sequence.request.digest}")
        hashes = [chained_hash(start, [i]) for i in range(count)]
        found = [self.pool.lookup(one) for one in hashes]
        known = [block for block in found if block is not None]
        if len(known) == count:
            sequence.prefix_blocks = known
            return True
        self.pool.free(known)
        if self.pool.available < count:
            return False
        blocks = [block for block in (self.pool.allocate() for _ in hashes) if block is not None]
        try:
            rows = torch.from_numpy(slot_mapping(blocks)[: sequence.prefix_rows]).to(self.backbone.device)
            for layer in range(self.backbone.layers):  # before they are cached: a failure leaves nothing half written
                self.tensors.write(layer, rows, *sequence.adapter.prefix(layer))
        except BaseException:
            self.pool.free(blocks)
            raise
        for block, one in zip(blocks, hashes, strict=True):
            self.pool.cache(block, one)
        sequence.prefix_blocks = blocks
        return True

    def _map_slots(self, sequence: Sequence) -> None:
        prefix = slot_mapping(sequence.prefix_blocks)[: sequence.prefix_rows]
        sequence.rows = np.concatenate([prefix, slot_mapping(sequence.blocks)])
