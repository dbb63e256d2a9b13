"""The memory pool of CUDA graphs: torch refuses to capture into one whose graphs are all gone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from manyhats.engine.decode_graph import CudaCapture
from torch import Tensor

CPU = torch.device("cpu")


class Pools:
    """How often each pool is in use, as torch's allocator counts it: none is begun again once nobody uses it."""

    def __init__(self) -> None:
        self.users: dict[int, int] = {}

    def enter(self, pool: int | None) -> int:
        own = len(self.users) if pool is None else pool
        assert pool is None or self.users[pool] > 0, "it->second->use_count > 0 INTERNAL ASSERT FAILED"
        self.users[own] = self.users.get(own, 0) + 1
        return own


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    """In the place of torch's graphs."""
    found = Pools()

    class Graph:
        def __init__(self) -> None:
            self.own: int | None = None

        def pool(self) -> int:
            assert self.own is not None, "nothing was captured"
            return self.own

        def replay(self) -> None: ...

        def __del__(self) -> None:
            if self.own is not None:
                found.users[self.own] -= 1

    @contextmanager
    def capturing(graph: Any, pool: int | None, **_: Any) -> Iterator[None]:
        own = found.enter(pool)
        try:
            yield
        except BaseException:
            found.users[own] -= 1
            raise
        graph.own = own

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    return found


def _one() -> Tensor:
    return torch.ones(1)


def test_graphs_that_live_share_one_pool(pools: Pools) -> None:
    capture = CudaCapture(CPU)
    kept = [capture(_one)[1] for _ in range(3)]
    assert pools.users == {0: 3}
    del kept[0]  # the first
    kept.append(capture(_one)[1])
    assert pools.users == {0: 3}


def test_a_pool_is_not_used_again_after_its_last_graph(pools: Pools) -> None:
    capture = CudaCapture(CPU)
    for i in range(3):
        kept = capture(_one)[1]
        assert pools.users[i] == 1
        del kept
        gc.collect()
        assert not any(pools.users.values())


def test_the_pool_stays_where_a_capture_fails(pools: Pools) -> None:
    capture = CudaCapture(CPU)

    def fails() -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match=r"^no$"):
        capture(fails)
    kept = capture(_one)[1]
    with pytest.raises(RuntimeError, match=r"^no$"):
        capture(fails)
    other = capture(_one)[1]
    assert sorted(pools.users.values()) == [0, 2]
    del kept, other


def test_a_graph_that_goes_meanwhile_is_held(pools: Pools) -> None:
    capture = CudaCapture(CPU)
    kept: list[Callable[[], None]] = [capture(_one)[1]]

    def dropping() -> Tensor:
        kept.clear()
        gc.collect()
        assert pools.users == {0: 2}
        return torch.ones(1)

    kept.append(capture(dropping)[1])
    assert pools.users == {0: 1}


@pytest.mark.gpu
def test_graphs_are_captured_again_after_all_are_gone() -> None:
    device = torch.device("cuda", 0)
    capture = CudaCapture(device)
    x = torch.ones(8, device=device)
    for _ in range(3):
        made = [capture(lambda n=n: x * 2 + n) for n in range(2)]  # type: ignore[misc]
        for n, (result, replay) in enumerate(made):
            x.fill_(5)
            replay()
            assert result.tolist() == [10 + n] * 8
        del made, result, replay
        gc.collect()
