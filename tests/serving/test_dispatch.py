"""What other threads have for the event loop: in order, together, and nothing lost."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from manyhats.serving.dispatch import Dispatcher


def in_thread(job: Any) -> None:
    thread = threading.Thread(target=job)
    thread.start()
    thread.join()


@pytest.fixture
def wake_ups(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each wake-up of any event loop."""
    seen: list[Any] = []
    original = asyncio.BaseEventLoop.call_soon_threadsafe

    def counted(self: Any, callback: Any, *args: Any, **options: Any) -> Any:
        seen.append(callback)
        return original(self, callback, *args, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", counted)
    return seen


def test_a_step_of_64_requests_and_their_tokens_is_one_wake_up(wake_ups):
    dispatcher = Dispatcher()
    futures: list[Future[int]] = [Future() for _ in range(64)]
    tokens: list[int] = []

    def step() -> None:
        with dispatcher.one_wake_up():
            for i, future in enumerate(futures):
                dispatcher.post(tokens.append, i)
                future.set_result(i)

    async def main() -> None:
        dispatcher.attach()
        waiting = [dispatcher.end_of(future) for future in futures]
        await asyncio.sleep(0)
        in_thread(step)
        assert tokens == []  # the loop has not had its turn
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert tokens == list(range(64))
    assert len(wake_ups) == dispatcher.wake_ups == 1


def test_what_is_posted_by_itself_wakes_a_loop_once_until_it_looks(wake_ups):
    dispatcher = Dispatcher()
    seen: list[int] = []

    async def main() -> None:
        dispatcher.attach()
        in_thread(lambda: [dispatcher.post(seen.append, i) for i in range(5)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        in_thread(lambda: dispatcher.post(seen.append, 5))
        while len(seen) < 6:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == list(range(6))
    assert len(wake_ups) == 2


def test_holding_holds_for_one_thread_alone_and_nests(wake_ups):
    dispatcher = Dispatcher()
    seen: list[str] = []

    async def main() -> None:
        dispatcher.attach()
        with dispatcher.one_wake_up():
            with dispatcher.one_wake_up():
                dispatcher.post(seen.append, "held")
            assert not wake_ups
            in_thread(lambda: dispatcher.post(seen.append, "other"))
            assert len(wake_ups) == 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == ["held", "other"]


def test_an_error_in_a_call_leaves_the_others_alone():
    dispatcher = Dispatcher()
    seen: list[int] = []
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        dispatcher.attach()
        with dispatcher.one_wake_up():
            dispatcher.post(lambda: 1 / 0)
            dispatcher.post(seen.append, 1)
        while not seen:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert isinstance(told[0]["exception"], ZeroDivisionError)


def test_waiting_takes_any_outcome_and_may_be_given_up():
    dispatcher = Dispatcher()
    failed: Future[None] = Future()
    failed.set_exception(ValueError("no"))
    late: Future[None] = Future()

    async def main() -> None:
        dispatcher.attach()
        await dispatcher.end_of(failed)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await dispatcher.end_of(late)
        in_thread(lambda: late.set_result(None))
        await dispatcher.end_of(late)

    asyncio.run(main())


def test_a_closed_loop_is_left_alone():
    dispatcher = Dispatcher()

    async def main() -> None:
        dispatcher.attach()

    asyncio.run(main())
    dispatcher.post(print)
    with dispatcher.one_wake_up():
        dispatcher.post(print)
    assert dispatcher.wake_ups == 0
