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


def test_a_slow_reader_gets_all_that_has_come_at_once_and_in_order():
    async def main() -> list[Any]:
        queue, sent = DeltaQueue(), deltas(5)
        for one in sent[:3]:
            queue.put(one)
        first = await queue.get_all()
        later = asyncio.create_task(queue.get_all())
        await asyncio.sleep(0)
        assert not later.done()
        for one in sent[3:]:
            queue.put(one)
        second = await later
        queue.close()
        assert [first, second] == [sent[:3], sent[3:]]
        return await queue.get_all()

    assert asyncio.run(main()) == []


def test_what_came_before_the_end_is_taken_first():
    async def main() -> None:
        queue, sent = DeltaQueue(), deltas(2)
        queue.put(sent[0])
        queue.put(sent[1])
        queue.close()
        assert await queue.get_all() == sent
        assert await queue.get_all() == []

    asyncio.run(main())
