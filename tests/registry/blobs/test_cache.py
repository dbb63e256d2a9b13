"""The local cache: bounded in bytes, least recently used first, never what is in use."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from manyhats.errors import StoreUnavailable, TooLarge
from manyhats.registry.blobs.cache import BlobCache


def made(root: Path, limit: int = 1000) -> BlobCache:
    cache = BlobCache(root / "cache", limit, root / "aside")
    cache.open()
    return cache


def content(root: Path, size: int) -> Path:
    folder = root / "new"
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"x" * size)
    return folder


def add(cache: BlobCache, root: Path, name: str, size: int = 400) -> None:
    with cache.room() as reserve:
        reserve(size)
        cache.add(name, content(root, size), reserved=size)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = made(tmp_path)
    for name in ("a", "b"):
        add(cache, tmp_path, name)
    with cache.reading("a"):
        pass
    add(cache, tmp_path, "c")
    assert cache.contents() == {"a", "c"} == cache.on_disk()
    assert (cache.used, cache.evictions) == (800, 1)
    assert list((tmp_path / "aside").iterdir()) == []


def test_the_order_outlives_the_process(tmp_path: Path) -> None:
    cache = made(tmp_path)
    for name in ("b", "a"):
        add(cache, tmp_path, name)
    with cache.reading("b"):
        pass
    again = made(tmp_path, 500)  # and so does the bound
    assert again.contents() == {"b"}


def test_what_is_read_or_in_use_stays(tmp_path: Path) -> None:
    cache = made(tmp_path)
    for name in ("read", "used"):
        add(cache, tmp_path, name)
    cache.in_use = lambda: {"used"}
    with cache.reading("read") as folder:
        with cache.room() as reserve, pytest.raises(StoreUnavailable, match="blob_cache"):
            reserve(400)
        assert (folder / "file").exists()
    add(cache, tmp_path, "c")
    assert cache.contents() == {"used", "c"}


def test_what_is_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    cache = made(tmp_path)
    add(cache, tmp_path, "a")
    with cache.room() as reserve, pytest.raises(TooLarge, match="room for 1000"):
        reserve(1001)
    assert cache.contents() == {"a"}


def test_an_upload_for_which_there_is_no_room_is_not_cached(tmp_path: Path) -> None:
    cache = made(tmp_path)
    add(cache, tmp_path, "a", 900)
    cache.in_use = lambda: {"a"}
    cache.add("b", content(tmp_path, 200))
    assert cache.contents() == {"a"}


def test_a_folder_that_somebody_removed_is_no_longer_missed(tmp_path: Path) -> None:
    cache = made(tmp_path)
    add(cache, tmp_path, "a")
    (cache.path("a") / "file").unlink()
    cache.path("a").rmdir()
    cache.drop("a")
    assert cache.used == 0


def test_many_threads_keep_the_bound(tmp_path: Path) -> None:
    cache = made(tmp_path, 1000)
    most: list[int] = []

    def work(number: int) -> None:
        for i in range(30):
            name = f"{(number + i) % 7}"
            with cache.reading(name), cache.room() as reserve:
                if not cache.has(name):
                    try:
                        reserve(300)
                    except StoreUnavailable:
                        continue
                    cache.add(name, content(tmp_path / f"{number}-{i}", 300), reserved=300)
            most.append(cache.used)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 1000
    assert cache.contents() == cache.on_disk()


class Model(RuleBasedStateMachine):
    """Any order of additions, readings and removals: the bound holds, and the disk has what the cache says."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.cache = made(self.root)
        self.order: list[str] = []
        self.sizes: dict[str, int] = {}

    @rule(name=st.sampled_from("abcdef"), size=st.integers(1, 1000))
    def add(self, name: str, size: int) -> None:
        if name in self.sizes:
            return
        add(self.cache, self.root, name, size)
        while self.order and sum(self.sizes.values()) + size > 1000:
            del self.sizes[self.order.pop(0)]
        self.order.append(name)
        self.sizes[name] = size

    @rule(name=st.sampled_from("abcdef"))
    def read(self, name: str) -> None:
        with self.cache.reading(name):
            pass
        if name in self.sizes:
            self.order.remove(name)
            self.order.append(name)

    @rule(name=st.sampled_from("abcdef"))
    def drop(self, name: str) -> None:
        self.cache.drop(name)
        if name in self.sizes:
            self.order.remove(name)
            del self.sizes[name]

    @invariant()
    def same(self) -> None:
        assert self.cache.contents() == set(self.sizes) == self.cache.on_disk()
        assert self.cache.used == sum(self.sizes.values()) <= 1000

    def teardown(self) -> None:
        self.folder.cleanup()


Model.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestModel = Model.TestCase
