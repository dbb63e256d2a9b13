# Made by scripts/sync_client.py of _async/many.py; not edited by hand.
"""Asks one task about any number of inputs, in requests beside one another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from manyhats_client import questions as asking
from manyhats_client._sync.sender import Sender
from manyhats_client.answers import Failure
from manyhats_client.choices import CallOptions
from manyhats_client.concurrency import Items, Job, Workers, items
from manyhats_client.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    ConnectionFailed,
    PermissionDenied,
    ServerError,
    Timeout,
    TooLarge,
    UnprocessableAdapter,
)
from manyhats_client.items import Item

T = TypeVar("T")

# What one input may have brought upon all that were asked with it.
_OF_ONE = (BadRequest, TooLarge, UnprocessableAdapter, ServerError)


class ManyAsker:
    """Asks about batches of inputs, each input a question of its own."""

    def __init__(self, sender: Sender, task: str, parameters: Mapping[str, Any], options: CallOptions) -> None:
        self._sender = sender
        self._task = task
        self._parameters = parameters
        self._options = options
        self._retries = sender._retries.with_most(options.get("retries"))

    def ask(self, items: Sequence[Item]) -> Sequence[Item]:
        """Gives each item its output, or the error that is its own.

        An item that the server refuses for now is asked again. A request that fails as a whole is asked again in
        halves until the items at fault are alone. Raises what concerns all: a server that is not there or none of
        Manyhats', and a key that may not ask.
        """
        left, tried = items, 0
        while left:
            tried += 1
            try:
                results = self._sender._call(
                    asking.predict_each(self._task, [item.input for item in left], self._parameters), self._options
                )
            except _OF_ONE as error:
                if len(left) > 1:
                    middle = len(left) // 2
                    self.ask(left[:middle])
                    self.ask(left[middle:])
                else:
                    left[0].fail(error)
                break
            except (AuthenticationError, PermissionDenied):
                raise
            except (APIError, Timeout) as error:
                for item in left:
                    item.fail(error)
                break
            except ConnectionFailed as error:
                # Asking changes nothing, so that it may be asked again though it was sent.
                pause = self._retries.pause(error, tried, repeatable=True) if error.sent else None
                if pause is None:
                    raise
            else:
                for item, result in zip(left, results, strict=True):
                    item.take(result)
                refused = [item for item, result in zip(left, results, strict=True) if isinstance(result, Failure)]
                pause, left = self._again(refused, tried)
                if pause is None:
                    break
            self._sender._sleep(pause)
        return items

    def _again(self, failed: Sequence[Item], tried: int) -> tuple[float | None, Sequence[Item]]:
        """How long to wait before which of the items are asked again; None where none is."""
        pauses = [(self._retries.pause(item.error, tried), item) for item in failed if item.error is not None]
        again = [(pause, item) for pause, item in pauses if pause is not None]
        return max((pause for pause, _ in again), default=None), [item for _, item in again]


def in_batches(
    inputs: Items[T],
    size: int,
    concurrency: int,
    ask: Callable[[int, list[T]], Any],
) -> Generator[Any, None]:
    """What `ask` makes of batches of at most `size` inputs (with the index of the first), in their order.

    At most `concurrency` are asked at once, and so many are read ahead. Where reading fails, that is raised behind the
    results of what was read.
    """
    if size < 1 or concurrency < 1:
        raise ValueError(f"batch_size and concurrency are at least 1, not {size} and {concurrency}")
    source, first = items(inputs), 0
    jobs: deque[Job[Any]] = deque()
    failure: Exception | None = None
    more = True
    with Workers(concurrency) as workers:
        while more or jobs:
            batch: list[T] = []
            try:
                while more and len(batch) < size:
                    batch.append(next(source))
            except StopIteration:
                more = False
            except Exception as error:
                more, failure = False, error
            if batch:
                jobs.append(workers.start(ask, first, batch))
                first += len(batch)
            while jobs and (not more or len(jobs) >= concurrency or jobs[0].done()):
                yield workers.result(jobs.popleft())
    if failure is not None:
        raise failure
