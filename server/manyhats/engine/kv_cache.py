"""Paged key-value cache: allocates blocks of rows, counts their users, and finds cached blocks by their content.

A full block is cached under a hash of the adapter's digest and of all tokens up to the block's end (prefix caching). A
block without users stays cached until its memory is needed; the least recently used is evicted first.
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
from manyhats.methods.slots import slot_tables

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
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached, without users; the least recently used first

    @property
    def available(self) -> int:
        """Blocks that can be allocated."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that have a user."""
        return self.count - self.available

    def allocate(self) -> int | None:
        """A block with one user, evicting a cached one where no free block is left; None where all are in use."""
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
        """Caches the block under its hash. Where a block with this hash is cached already, that one is kept."""
        if block_hash not in self._cached and block not in self._hashes:
            self._cached[block_hash] = block
            self._hashes[block] = block_hash

    def contains(self, block_hash: BlockHash) -> bool:
        """Whether a block with this hash is cached."""
        return block_hash in self._cached

    def uncache(self, blocks: Many[int]) -> None:
        """Lets no further sequence find these blocks; those that use them keep them."""
        for block in blocks:
            if (block_hash := self._hashes.pop(block, None)) is not None:
                del self._cached[block_hash]
                if self._idle.pop(block, "in use") is None:
                    self._free.append(block)

    def lookup(self, block_hash: BlockHash) -> int | None:
        """The cached block with this hash, with one more user; None where there is none."""
        block = self._cached.get(block_hash)
        if block is None:
            return None
        self._users[block] += 1
        self._idle.pop(block, None)
        return block

    def free(self, blocks: Many[int]) -> None:
        """Removes one user of each. The last blocks come first, so that they are evicted before a shared prefix."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._hashes:
                self._idle[block] = None
            else:
                self._free.append(block)


def root_hash(digest: str) -> BlockHash:
    """The hash that precedes an adapter's first block. `digest`: identifies the adapter's weights."""
    return hashlib.blake2b(digest.encode(), digest_size=16).digest()


def chained_hash(before: BlockHash, content: Many[int]) -> BlockHash:
    """The hash of a block, from the hash of the block before it and its own tokens."""
    data = np.asarray(content, dtype=np.int64).tobytes()
    return hashlib.blake2b(before + data, digest_size=16).digest()


def slot_mapping(blocks: Many[int]) -> NDArray[np.int64]:
    """The cache's row for each position of consecutive blocks."""
    own = np.asarray(blocks, dtype=np.int64)[:, None] * BLOCK + np.arange(BLOCK)[None]
    return own.reshape(-1)


def blocks_for(positions: int) -> int:
    """How many blocks are needed for so many positions."""
    return -(-positions // BLOCK)


def cache_tensors(backbone: Backbone, rows: int) -> KeyValueCache:
    """Keys and values for so many rows, read by the backbone's kernels where they can."""
    attention = slot_tables(backbone).kernels.row_attention
    if attention is not None and not attention.supports(backbone.dtype):
        attention = None
    return KeyValueCache(rows, backbone.layers, backbone.kv_shape, backbone.device, backbone.dtype, attention)


class KVCache:
    """Keys and values of the running sequences. Only the model's thread uses it.

    `cache_bytes`: memory for keys and values.
    """

    def __init__(self, backbone: Backbone, cache_bytes: int) -> None:
        self.backbone = backbone
        row = KeyValueCache.row_bytes(backbone.layers, backbone.kv_shape, backbone.dtype)
        self.pool = BlockPool(max(cache_bytes // (row * BLOCK), 1))
        self._tensors: KeyValueCache | None = None
        self.reused = 0  # prompt tokens that were found in the cache, and not computed again

    @property
    def tensors(self) -> KeyValueCache:
        """Allocated when the first sequence needs them."""
        if self._tensors is None:
            self._tensors = cache_tensors(self.backbone, self.pool.count * BLOCK)
        return self._tensors

    def capacity(self, adapter: BoundAdapter) -> int:
        """The maximum number of tokens of one sequence, not counting virtual tokens and the adapter's prefix.

        May be called from any thread.
        """
        if adapter.non_causal:
            return self.backbone.max_tokens
        return (self.pool.count - blocks_for(adapter.prefix_rows)) * BLOCK - adapter.virtual_tokens

    def reset(self) -> None:
        """Frees and uncaches all blocks, whatever state they are in."""
        self.pool = BlockPool(self.pool.count)

    def block_hashes(self, sequence: Sequence) -> list[BlockHash]:
        """The hashes of the sequence's full blocks, but for its last token: at least that one has to be computed.

        None of a sequence that runs alone: what others computed together is not to be found by it.
        """
        if sequence.adapter.non_causal or sequence.request.lane != "shared":
            return []
        full = (sequence.length - 1) // BLOCK
        hashes = sequence.block_hashes
        for i in range(len(hashes), full):
            before = hashes[-1] if hashes else root_hash(sequence.request.digest)
            hashes.append(chained_hash(before, sequence.content(i * BLOCK, (i + 1) * BLOCK)))
        return hashes[:full]

    def first_missing(self, sequence: Sequence) -> BlockHash | None:
        """The hash of its first full block that is not cached; None where all are."""
        return next((one for one in self.block_hashes(sequence) if not self.pool.contains(one)), None)

    def uncomputed_blocks(self, sequence: Sequence) -> set[BlockHash]:
        """The hashes of the full blocks of its prompt that it has yet to compute."""
        if sequence.length - sequence.computed <= 1:
            return set()
        return set(self.block_hashes(sequence)[sequence.computed // BLOCK :])

    def allocate_prefix(self, sequence: Sequence) -> bool:
        """Gives a sequence the blocks of its adapter's prefix, and the cached blocks of its prompt.

        Returns False where there are not enough free blocks. Raises what the adapter's prefix raises; the sequence has
        no blocks then.
        """
        if sequence.adapter.non_causal:
            return True
        if not self._attach_adapter_prefix(sequence):
            return False
        hashes = [] if sequence.needs_prompt_logprobs else self.block_hashes(sequence)  # logits are not cached
        for block_hash in hashes:
            block = self.pool.lookup(block_hash)
            if block is None:
                break
            sequence.blocks.append(block)
        sequence.computed = len(sequence.blocks) * BLOCK
        if sequence.computed < sequence.virtual:  # virtual tokens are computed in one chunk
            self.pool.free(sequence.blocks)
            sequence.blocks, sequence.computed = [], 0
        found = max(sequence.computed - sequence.virtual, 0)
        self.reused += found
        if not sequence.output:  # else it was preempted, and finds its own blocks
            sequence.cached_tokens = found
        self._update_slot_mapping(sequence)
        return True

    def allocate(self, sequence: Sequence, length: int) -> bool:
        """Allocates blocks for the first `length` positions. Returns False where there are too few free blocks; those
        that were allocated stay with the sequence."""
        missing = blocks_for(length) - len(sequence.blocks)
        if missing <= 0:
            return True
        for _ in range(missing):
            block = self.pool.allocate()
            if block is None:
                return False
            sequence.blocks.append(block)
        self._update_slot_mapping(sequence)
        return True

    def mark_computed(self, sequence: Sequence, positions: int) -> None:
        """Notes that so many more positions have been computed, and caches the blocks that became full."""
        sequence.computed += positions
        full = self.block_hashes(sequence)[: sequence.computed // BLOCK]
        for i in range(sequence.cached_blocks, len(full)):
            self.pool.cache(sequence.blocks[i], full[i])
        sequence.cached_blocks = len(full)

    def discard(self, sequence: Sequence) -> None:
        """Lets no other sequence find the blocks of one that failed, those it found itself and those of its adapter's
        prefix included: what is not finite, or wrong, would fail whoever finds it.

        What the blocks hold stays: a row is read only by sequences in whose block table it is, once they wrote it.
        """
        self.pool.uncache(sequence.blocks)
        self.pool.uncache(sequence.prefix_blocks)

    def free(self, sequence: Sequence) -> None:
        """Frees its blocks, and its use of the adapter's prefix blocks."""
        self.pool.free(sequence.prefix_blocks)
        self.pool.free(sequence.blocks)
        sequence.prefix_blocks, sequence.blocks, sequence.computed, sequence.cached_blocks = [], [], 0, 0

    def _attach_adapter_prefix(self, sequence: Sequence) -> bool:
        """Gives the sequence the blocks of its adapter's prefix, which all sequences of the adapter share."""
        sequence.prefix_rows = sequence.adapter.prefix_rows
        count = blocks_for(sequence.prefix_rows)
        start = root_hash(f"prefix {sequence.request.digest}")
        hashes = [chained_hash(start, [i]) for i in range(count)]
        found = [self.pool.lookup(one) for one in hashes]
        cached = [block for block in found if block is not None]
        if len(cached) == count:
            sequence.prefix_blocks = cached
            return True
        self.pool.free(cached)
        if self.pool.available < count:
            return False
        blocks = [block for block in (self.pool.allocate() for _ in hashes) if block is not None]
        try:
            rows = torch.from_numpy(slot_mapping(blocks)[: sequence.prefix_rows]).to(self.backbone.device)
            for layer in range(self.backbone.layers):  # before the blocks are cached, so that a failure caches nothing
                self.tensors.write(layer, rows, *sequence.adapter.prefix(layer))
        except BaseException:
            self.pool.free(blocks)
            raise
        for block, one in zip(blocks, hashes, strict=True):
            self.pool.cache(block, one)
        sequence.prefix_blocks = blocks
        return True

    def _update_slot_mapping(self, sequence: Sequence) -> None:
        prefix = slot_mapping(sequence.prefix_blocks)[: sequence.prefix_rows]
        sequence.slot_mapping = np.concatenate([prefix, slot_mapping(sequence.blocks)])
