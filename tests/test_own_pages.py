"""What is large goes back to the system whole, whatever small things have come meanwhile."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from manyhats import own_pages

_FREED = """
import torch
from manyhats import own_pages
from manyhats.engine.freed_memory import keep_freed_memory

keep_freed_memory()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

torch.ones(1 << 20).sum()
before = resident()
blocks, small = [], []
for _ in range(200):
    blocks.append(own_pages.empty(1 << 20).fill_(1))
    small.append(torch.ones(3000))
views = [block.view(torch.float32).as_strided((10, 10), (10, 1), 64) for block in blocks[:20]]
full = resident() - before
del blocks
print(full, resident() - before, int(views[0].numel()))
"""


@pytest.mark.parametrize("size", [0, 1, own_pages.LEAST - 1, own_pages.LEAST, (1 << 20) + 3])
def test_it_has_the_size_and_may_be_written(size: int) -> None:
    found = own_pages.empty(size)
    assert (found.dtype, found.shape) == (torch.uint8, (size,))
    assert int(found.fill_(7).long().sum()) == 7 * size


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_its_pages_go_back_when_the_last_view_dies() -> None:
    done = subprocess.run([sys.executable, "-c", _FREED], capture_output=True, text=True, check=True, timeout=120)
    full, left, _ = map(int, done.stdout.split())
    assert full > 195 << 20
    assert left < 40 << 20, "20 MB are looked at still, and 2 MB are small things"


def test_a_freed_block_is_used_for_the_next_of_its_size() -> None:
    size = own_pages.LEAST + 4096 * 7
    first = own_pages.empty(size)
    view, place = first[100:200], first.data_ptr()
    del first
    other = own_pages.empty(size)
    assert other.data_ptr() != place, "a view of it is there still"
    del view
    assert own_pages.empty(size + 4096).data_ptr() != place
    assert own_pages.empty(size).data_ptr() == place


def test_few_freed_blocks_wait_and_no_large_one() -> None:
    most, large = own_pages.MOST_FREED, own_pages.LARGEST_FREED
    blocks = [own_pages.empty(own_pages.LEAST + 4096 * i) for i in range(2 * most)]
    del blocks
    own_pages.empty(large + 4096)
    assert len(own_pages._freed) == most
    assert all(len(pages) <= large for pages in own_pages._freed)


def test_threads_never_share_a_block() -> None:
    def work(number: int) -> bool:
        views = [own_pages.empty(own_pages.LEAST).fill_(number) for _ in range(3)]
        return all(int(view.min()) == int(view.max()) == number for view in views)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, [number % 251 for number in range(2000)]))


def test_so_many_blocks_have_pages_of_their_own_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux bounds a process's mappings; what comes beyond is the allocator's, until others are gone."""
    monkeypatch.setattr(own_pages, "MOST_FREED", 0)
    del own_pages._freed[:]
    before = len(own_pages._blocks)
    monkeypatch.setattr(own_pages, "MOST", before + 2)
    views = [own_pages.empty(own_pages.LEAST)[:10].fill_(i) for i in range(4)]
    assert len(own_pages._blocks) == before + 2
    assert [int(view.sum()) for view in views] == [0, 10, 20, 30]
    del views[0]
    assert len(own_pages._blocks) == before + 1
    views.append(own_pages.empty(own_pages.LEAST))
    assert len(own_pages._blocks) == before + 2
