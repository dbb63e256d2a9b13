"""Decides how long the engine waits, before a pass, for the clients that it has just answered.

Clients that wait for an answer and then ask again come back one after the other, while the event loop renders answers
and parses requests. A pass that begins with the first of them is small: its fixed cost is paid often, and it competes
with the event loop for the processor and the interpreter's lock. So a pass waits until most of them have come back.

The rule: where a delivery answered sequences, the next pass begins when 7/8 as many have joined those that were waiting
then, or when they fill the token budget, or after a part of the predicted time of a pass with them, whichever comes
first. That
such a wait reaches its number is learned: after one that did not, the next is tried only after twice as many passes. A
lone client never waits, since its next request is all that is expected; nor does one that was answered longer ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from manyhats.engine.admission import Rates

_RETURNING = 8  # all but one of so many are waited for
_MAX_PAUSE = 256  # passes without a wait, after several that were in vain
_SHARED = 3  # passes of one sequence: how long one may take while somebody who asks for little may come
_PASSES_UNDER_WAY = 2  # of one client, while others must not wait for it: one runs, one is prepared or answered
_LEAST_WINDOW, _MOST_WINDOW = 8, 16  # inputs: more would fill the event loop's turns, however short the passes are
_GROWTH = 4.0  # times the tokens of recent passes: what one may have while somebody may come
_SEEN = 2.0  # times the tokens of recent passes: so many are about as many as before
_OUTLIER = 3.0  # times the usual time: what a pass counts for at most
_FADING = 0.98  # weight of the earlier passes in the cost, at each new one


class PassCost:
    """The time of a pass as a linear function of its tokens, by least squares over the passes so far, the latest
    counting most."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = self._sequences = 0.0

    def add(self, tokens: int, seconds: float, sequences: int = 1) -> None:
        """A pass that has been computed.

        One that took much longer than such passes do, as while the processor was busy with something else, counts for
        less: it would say that fewer tokens take longer.
        """
        if self._weight and tokens <= _SEEN * self._x / self._weight and (usual := self.seconds(tokens)):
            seconds = min(seconds, _OUTLIER * usual)
        sums = (self._weight, self._x, self._y, self._xx, self._xy, self._sequences)
        new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds, sequences)
        self._weight, self._x, self._y, self._xx, self._xy, self._sequences = (
            old * _FADING + one for old, one in zip(sums, new, strict=True)
        )

    @property
    def rates(self) -> Rates:
        """What the passes did in each second that they took."""
        return Rates(self._sequences / self._y, self._x / self._y) if self._y else Rates(0.0, 0.0)

    def shared_pass(self) -> tuple[float, float]:
        """The tokens of a pass that takes as long as a few of one sequence each, and its sequences.

        Both infinite before the first pass. Far beyond the passes of late nothing is known: it grows step by step.
        """
        if not self._weight:
            return inf, inf
        mean = self._x / self._sequences
        known = _GROWTH * self._x / self._weight
        at_none, at_one = self.seconds(0), self.seconds(mean)
        slope = (at_one - at_none) / mean
        tokens = min((_SHARED * at_one - at_none) / slope, known) if slope > 0 else known
        return tokens, tokens / mean

    def window(self) -> int:
        """How many sequences of one client may be under way while others must not wait for it: a few passes."""
        return int(max(min(_PASSES_UNDER_WAY * self.shared_pass()[1], _MOST_WINDOW), _LEAST_WINDOW))

    def seconds(self, tokens: float) -> float:
        """The predicted time of a pass; 0 before the first."""
        if not self._weight:
            return 0.0
        x, y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - x * x
        if variance <= 1e-6 * x * x:  # all had as many tokens: in proportion
            return y * tokens / x
        slope = max((self._xy / self._weight - x * y) / variance, 0.0)
        return max(y + slope * (tokens - x), 0.0)


class Wait(NamedTuple):
    """Until so many sequences wait, or until a time of the clock."""

    sequences: int
    deadline: float


class BatchFormation:
    """Only the model's thread uses it. `max_tokens`: of a pass; `longest`: how long a wait may be, in predicted passes,
    0: there is none; `clock`: in seconds."""

    def __init__(self, max_tokens: int, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.cost = PassCost()
        self._longest = longest
        self._max_tokens = max_tokens
        self._clock = clock
        self._wait: Wait | None = None  # for those that the last pass answered
        self._failures = 0  # waits in a row that did not reach their number
        self._pause = 0  # passes until the next wait

    def passed(self, answered: int, tokens: int, waiting: int) -> None:
        """A pass over so many tokens has answered sequences, while others wait already."""
        self._wait = None
        if self._pause:
            self._pause -= 1
        elif answered and self._longest:
            mean = tokens / answered
            returning = answered - answered // _RETURNING
            expected = min(waiting + returning, int(self._max_tokens / mean))
            self._wait = Wait(expected, self._clock() + self._longest * self.cost.seconds(expected * mean))

    def wait(self, waiting: int) -> Wait | None:
        """What to wait for, where so many sequences wait; None: the pass begins now. Asked once for each pass."""
        wanted, self._wait = self._wait, None
        if wanted is None or waiting >= wanted.sequences or self._clock() >= wanted.deadline:
            return None
        return wanted

    def waited(self, wanted: Wait, waiting: int) -> None:
        """A wait has ended with so many sequences."""
        if waiting >= wanted.sequences:
            self._failures = 0
        else:
            self._failures += 1
            self._pause = min(1 << self._failures, _MAX_PAUSE)
