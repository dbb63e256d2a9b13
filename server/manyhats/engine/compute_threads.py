"""Gives torch's intra-op threads to the model's thread alone.

OpenMP keeps a team of threads for each thread that computes in parallel. Where all teams together have more threads
than the processor has cores, GNU's runtime puts them to sleep between two products; on two cores a generation step then
took 1.6 times as long. So loading and the self-check run in a temporary thread, whose team ends with it, and all other
threads compute on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def run_in_temporary_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread that ends afterwards. Returns its result, or raises its error."""
    with ThreadPoolExecutor(1, thread_name_prefix="temporary") as pool:
        return pool.submit(work).result()


def set_compute_threads(count: int) -> None:
    """Sets the number of intra-op threads of the calling thread, and the default of threads that start later."""
    torch.get_num_threads()  # the first call in a thread copies the global default, which another thread may change
    torch.set_num_threads(count)


def use_one_compute_thread() -> None:
    """Makes the calling thread, and those that start later, compute without further threads."""
    torch.set_num_threads(1)
