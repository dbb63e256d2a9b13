"""torch's threads belong to the model's thread alone.

Each thread that computes with several threads has a team of its own in OpenMP. Where the teams together are larger than
the processor, GNU's runtime lets their members sleep between two products: a step of generation on two cores then took
1.6 times as long. So what computes before the model's thread does so in a thread that ends, with its team, and all
others compute by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def in_passing_thread(work: Callable[[], T]) -> T:
    """The result of `work`, from a thread that has ended then. Raises what it raises."""
    with ThreadPoolExecutor(1, thread_name_prefix="passing") as pool:
        return pool.submit(work).result()


def keep_threads(count: int) -> None:
    """Lets torch's operations of this thread use so many threads. Those that begin later would have as many, too."""
    torch.get_num_threads()  # a thread's first look sets its own number to that of all, which may change meanwhile
    torch.set_num_threads(count)


def leave_threads() -> None:
    """Lets torch's operations of this thread, and of those that begin later, use no other."""
    torch.set_num_threads(1)
