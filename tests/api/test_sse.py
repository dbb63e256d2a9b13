"""What a stream holds for a client that has not read it yet."""

from __future__ import annotations

import asyncio
from typing import Any

from manyhats.api.sse import DeltaQueue
from manyhats.core.sampling_params import SamplingParams
from manyhats.core.sequence import Delta, Request, Sequence
from manyhats.methods.bound_adapter import BARE


def deltas(count: int) -> list[Delta]:
    sequence = Sequence(BARE, [1], SamplingParams())
    Request("task", [sequence])
    return [Delta(sequence, str(i), None, None) for i in range(count)]


def test_a_slow_reader_gets_all_that_has_come_in_one_piece_and_in_order():
    async def main() -> list[Any]:
        queue, told = DeltaQueue(), deltas(5)
        for one in told[:3]:
            queue.put(one)
        first = await queue.take()
        later = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        assert not later.done()
        for one in told[3:]:
            queue.put(one)
        second = await later
        queue.close()
        assert [first, second] == [told[:3], told[3:]]
        return await queue.take()

    assert asyncio.run(main()) == []


def test_what_came_before_the_end_is_taken_first():
    async def main() -> None:
        queue, told = DeltaQueue(), deltas(2)
        queue.put(told[0])
        queue.put(told[1])
        queue.close()
        assert await queue.take() == told
        assert await queue.take() == []

    asyncio.run(main())
