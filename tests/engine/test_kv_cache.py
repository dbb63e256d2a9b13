"""The block pool: no block is lost or allocated twice, and a cached block is found with its own content."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from manyhats.engine.kv_cache import BLOCK, BlockPool, chained_hash, root_hash, slot_mapping

COUNT = 6


class Pool(RuleBasedStateMachine):
    """Compares the pool with a plain list of the users of each block."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(COUNT)
        self.users: list[int] = []  # one entry for each use of a block
        self.content: dict[int, bytes] = {}

    @rule()
    def allocate(self) -> None:
        block = self.pool.allocate()
        if block is None:
            assert len(set(self.users)) == COUNT
            return
        assert block not in self.users
        self.content.pop(block, None)
        self.users.append(block)

    @rule(key=st.sampled_from([b"a", b"b", b"c"]), pick=st.integers(0, 99))
    def cache(self, key: bytes, pick: int) -> None:
        if not self.users:
            return
        block = self.users[pick % len(self.users)]
        fresh = key not in self.content.values() and block not in self.content
        self.pool.cache(block, key)
        if fresh:
            self.content[block] = key

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def lookup(self, key: bytes) -> None:
        contained = self.pool.contains(key)
        block = self.pool.lookup(key)
        assert contained == (block is not None)
        known = [b for b, k in self.content.items() if k == key]
        assert ([] if block is None else [block]) == known
        if block is not None:
            self.users.append(block)

    @rule(pick=st.integers(0, 99))
    def free(self, pick: int) -> None:
        if self.users:
            self.pool.free([self.users.pop(pick % len(self.users))])

    @invariant()
    def counts(self) -> None:
        assert self.pool.used == len(set(self.users))
        assert self.pool.available == COUNT - len(set(self.users))


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_longest_unused_goes_first() -> None:
    pool = BlockPool(2)
    one, two = pool.allocate(), pool.allocate()
    assert one is not None
    assert two is not None
    pool.cache(one, b"1")
    pool.cache(two, b"2")
    pool.free([two])
    pool.free([one])
    assert pool.allocate() == two
    assert pool.lookup(b"2") is None
    assert pool.lookup(b"1") == one


def test_hashes_name_the_adapter_and_all_before() -> None:
    content = list(range(BLOCK))
    hashes = {chained_hash(root_hash(digest), content) for digest in ("a", "b")}
    hashes.add(chained_hash(chained_hash(root_hash("a"), content), content))
    hashes.add(chained_hash(root_hash("a"), [*content[:-1], 99]))
    assert len(hashes) == 4
    assert chained_hash(root_hash("a"), content) in hashes


def test_slots_stand_in_the_blocks_order() -> None:
    assert slot_mapping([2, 0]).tolist() == [*range(2 * BLOCK, 3 * BLOCK), *range(BLOCK)]
    assert slot_mapping([]).tolist() == []
