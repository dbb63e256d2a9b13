"""Work ends with its client's connection, and other reasons to end it stay what they are."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from manyhats.api.disconnect import ClientDisconnected, cancel_on_disconnect


class Connection:
    """A request whose client disconnects when the test says so; `broken`: reading from it fails then."""

    def __init__(self, *, broken: bool = False) -> None:
        self.scope: dict[str, Any] = {}
        self.gone = asyncio.Event()
        self._broken = broken

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        if self._broken:
            raise OSError("connection reset")
        return {"type": "http.disconnect"}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return cancel_on_disconnect(self, work)  # type: ignore[arg-type]


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


async def answer() -> str:
    await asyncio.sleep(0)
    return "answer"


async def failing() -> None:
    raise ValueError("wrong")


def test_work_gives_its_answer_or_its_error():
    async def main() -> None:
        assert await Connection().run(answer()) == "answer"
        with pytest.raises(ValueError, match="wrong"):
            await Connection().run(failing())

    asyncio.run(main())


@pytest.mark.parametrize("broken", [False, True])
def test_a_client_that_disconnects_ends_the_work(broken):
    async def main() -> None:
        connection, ended = Connection(broken=broken), []
        asyncio.get_running_loop().call_soon(connection.gone.set)
        with pytest.raises(ClientDisconnected):
            await connection.run(forever(ended))
        assert ended == ["ended"]
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # nothing of it is left

    asyncio.run(main())


def test_who_is_cancelled_otherwise_stays_cancelled():
    async def main() -> None:
        ended: list[str] = []
        task = asyncio.create_task(Connection().run(forever(ended)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["ended"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await Connection().run(forever(ended))

    asyncio.run(main())


def test_who_disconnects_after_the_answer_disturbs_nobody():
    async def main() -> None:
        connection = Connection()

        async def last() -> str:
            connection.gone.set()
            return "answer"

        assert await connection.run(last()) == "answer"
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())
