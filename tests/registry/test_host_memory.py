"""What host memory keeps: the newest, and what is asked for again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from manyhats.registry.host_memory import HostMemory


@dataclass(eq=False)
class Bound:
    """Stands for a bound adapter."""

    name: str
    nbytes: int = 10


class Memory:
    """Ten adapters of ten bytes fit; what is removed is listed."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.memory = HostMemory(100, lambda bound: self.removed.append(cast("Any", bound).name))

    def put(self, name: str, asked: int = 0, size: int = 10) -> None:
        """Puts a bound adapter."""
        self.memory.put_bound(name, cast("Any", Bound(name, size)), asked)


def test_those_put_first_are_removed_first() -> None:
    one = Memory()
    for i in range(13):
        one.put(f"{i}")
    assert one.removed == ["0", "1", "2"]
    assert one.memory.used == 100


def test_many_that_are_asked_for_once_do_not_drive_out_the_popular() -> None:
    one = Memory()
    for i in range(4):
        one.put(f"often-{i}", asked=5)
    for i in range(30):
        one.put(f"once-{i}")
    assert not [name for name in one.removed if name.startswith("often")]
    assert len(one.memory) == 10
    for i in range(200):  # but what is asked for no more goes in the end
        one.put(f"later-{i}")
    assert {name for name in one.removed if name.startswith("often")} == {f"often-{i}" for i in range(4)}
    assert len(one.memory) == 10


def test_the_newest_stays_and_the_search_for_one_to_remove_ends() -> None:
    one = Memory()
    for i in range(10):
        one.put(f"often-{i}", asked=1_000_000)
    one.put("new")
    assert "new" in one.memory
    assert len(one.removed) == 1
    one.put("large", size=1000)
    assert len(one.memory) == 1
    assert "large" in one.memory
    assert one.memory.used == 1000


def test_how_often_it_was_asked_for_goes_along() -> None:
    one = Memory()
    one.put("a", asked=2)
    one.memory.credit("a", 3)
    one.memory.credit("not there", 3)
    assert one.memory.take("a") == 5
    assert one.memory.take("a") == one.memory.used == 0
    assert one.removed == []
