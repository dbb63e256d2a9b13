"""Who has which rows of the cache: nothing is lost, nothing is given twice, and what is found is what was kept."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from manyhats.engine.blocks import BLOCK, BlockPool, first_key, next_key, rows_of

COUNT = 6


class Pool(RuleBasedStateMachine):
    """Beside the pool stands a plain list of who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(COUNT)
        self.holders: list[int] = []  # one entry for each use of a block
        self.content: dict[int, bytes] = {}

    @rule()
    def take(self) -> None:
        block = self.pool.take()
        if block is None:
            assert len(set(self.holders)) == COUNT
            return
        assert block not in self.holders
        self.content.pop(block, None)
        self.holders.append(block)

    @rule(key=st.sampled_from([b"a", b"b", b"c"]), pick=st.integers(0, 99))
    def remember(self, key: bytes, pick: int) -> None:
        if not self.holders:
            return
        block = self.holders[pick % len(self.holders)]
        fresh = key not in self.content.values() and block not in self.content
        self.pool.remember(block, key)
        if fresh:
            self.content[block] = key

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def find(self, key: bytes) -> None:
        block = self.pool.find(key)
        known = [b for b, k in self.content.items() if k == key]
        assert ([] if block is None else [block]) == known
        if block is not None:
            self.holders.append(block)

    @rule(pick=st.integers(0, 99))
    def give_back(self, pick: int) -> None:
        if self.holders:
            self.pool.give_back([self.holders.pop(pick % len(self.holders))])

    @invariant()
    def counts(self) -> None:
        assert self.pool.used == len(set(self.holders))
        assert self.pool.available == COUNT - len(set(self.holders))


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_longest_unused_goes_first() -> None:
    pool = BlockPool(2)
    one, two = pool.take(), pool.take()
    assert one is not None
    assert two is not None
    pool.remember(one, b"1")
    pool.remember(two, b"2")
    pool.give_back([two])
    pool.give_back([one])
    assert pool.take() == two
    assert pool.find(b"2") is None
    assert pool.find(b"1") == one


def test_keys_name_the_adapter_and_all_before() -> None:
    content = list(range(BLOCK))
    keys = {next_key(first_key(digest), content) for digest in ("a", "b")}
    keys.add(next_key(next_key(first_key("a"), content), content))
    keys.add(next_key(first_key("a"), [*content[:-1], 99]))
    assert len(keys) == 4
    assert next_key(first_key("a"), content) in keys


def test_rows_stand_in_the_blocks_order() -> None:
    assert rows_of([2, 0]).tolist() == [*range(2 * BLOCK, 3 * BLOCK), *range(BLOCK)]
    assert rows_of([]).tolist() == []
