"""What the asyncio client and the blocking one do each in their own way, in pairs.

`_sync` is made from `_async` by putting the second of each pair in the place of the first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

AsyncSleep = Callable[[float], Awaitable[None]]
Sleep = Callable[[float], None]

async_sleep: AsyncSleep = asyncio.sleep
sleep: Sleep = time.sleep

AsyncItems = Iterable[T] | AsyncIterable[T]
Items = Iterable[T]

AsyncJob = asyncio.Task
Job = Future


async def async_items(items: AsyncItems[T]) -> AsyncIterator[T]:
    """Iterates over what is or is not asynchronous."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def items(items: Items[T]) -> Iterator[T]:
    """Iterates."""
    yield from items


def length_of(items: object) -> int | None:
    """How many there are, where that is known before they are read."""
    return len(items) if isinstance(items, Sized) else None


async def async_apart(function: Callable[..., T], *args: Any) -> T:
    """Calls a function that waits for the disk, so that nothing else waits for it."""
    return await asyncio.to_thread(function, *args)


def apart(function: Callable[..., T], *args: Any) -> T:
    """Calls a function."""
    return function(*args)


class AsyncWorkers:
    """Runs coroutines beside one another; at its end those under way are cancelled."""

    def __init__(self, count: int) -> None:
        self._jobs: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def start(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> asyncio.Task[T]:
        """Starts one."""
        job = asyncio.create_task(function(*args))
        self._jobs.add(job)
        return job

    async def result(self, job: asyncio.Task[T]) -> T:
        """What one returns. Raises what it raises."""
        try:
            return await job
        finally:
            self._jobs.discard(job)


class Workers:
    """Runs functions in `count` threads; at its end those that have not begun are cancelled, and nobody waits for the
    others."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="manyhats-client")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Starts one."""
        return self._pool.submit(function, *args)

    def result(self, job: Future[T]) -> T:
        """What one returns. Raises what it raises."""
        return job.result()
