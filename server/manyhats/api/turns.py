"""Whose request is begun next: clients, and what one client asks for, take turns.

The event loop is one for all: a request that is parsed, tokenised and rendered takes it from the others. So where a
client that asks for little is crowded by one that asks for much, no client has more than a window of requests under
way: what it sends beyond that waits in its connections, where it costs nothing, and is begun in the order of its
paths' turns. Where nobody is crowded everything is begun at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from manyhats.core.fair_use import RecentUse

_REMEMBERED = 512  # clients without a request whose paths are remembered
_FREE_PATHS = 8  # paths of one client that may each have a request under way, however much the others have


class Turn:
    """One request's turn. `cost`: about how many inputs it has; `begin`: is called where it comes later."""

    __slots__ = ("begin", "begun", "client", "cost", "ended", "path")

    def __init__(self, client: str, path: str, cost: int) -> None:
        self.client = client
        self.path = path
        self.cost = cost
        self.begin: Callable[[], None] = _nobody
        self.begun = False
        self.ended = False


class _Client:
    """The requests of one client."""

    __slots__ = ("by_path", "under_way", "use", "waiting")

    def __init__(self, use: RecentUse[str]) -> None:
        self.use = use  # of its paths
        self.under_way = 0  # the cost of what has been begun
        self.by_path: dict[str, int] = {}  # the same, by path
        self.waiting: dict[str, dict[Turn, None]] = {}  # by path in the order of their turns, and by age


class Turns:
    """Only the event loop uses it. `window`: the cost that one client may have under way where others are crowded."""

    def __init__(self, window: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._window = window
        self._clock = clock
        self._clients: dict[str, _Client] = {}  # those that have something under way or waiting
        self._use: RecentUse[str] = RecentUse(clock=clock)
        self._use_of_paths: dict[str, RecentUse[str]] = {}
        self.waiting = 0  # requests

    def ask(self, client: str, path: str, cost: int, *, counts: bool = True) -> Turn:
        """A request's turn, which has come where `begun` says so. Always followed by `end`.

        `counts`: whether it makes the client one that asks.
        """
        turn = Turn(client, path, cost)
        own = self._clients.get(client)
        if own is None:
            own = self._clients[client] = _Client(self._remembered(client))
        if counts:
            self._use.add(client, cost)
            own.use.add(path, cost)
        if not own.waiting and self._may_begin(own, path):
            self._begin(own, turn)
        else:
            own.waiting.setdefault(path, {})[turn] = None
            self.waiting += 1
            self._begin_waiting(own)
        return turn

    def end(self, turn: Turn) -> None:
        """A request has been answered, or nobody waits for it any more. Once more does nothing."""
        if turn.ended:
            return
        turn.ended = True
        own = self._clients[turn.client]
        if turn.begun:
            own.under_way -= turn.cost
            own.by_path[turn.path] -= turn.cost
            if not own.by_path[turn.path]:
                del own.by_path[turn.path]
            self._begin_waiting(own)
        else:
            self._leave(own, turn)
        if not own.by_path and not own.waiting:
            del self._clients[turn.client]

    def _may_begin(self, own: _Client, path: str) -> bool:
        """Whether a client may have one more request to this path under way."""
        if not own.under_way:
            return True
        crowded_inside = own.use.crowded()
        if not crowded_inside and not self._use.crowded():
            return True
        of_path = own.by_path.get(path, 0)
        if not of_path and len(own.by_path) < _FREE_PATHS:
            return True
        window = self._window()
        # What else the client asks for finds half of its window free.
        return own.under_way < window and not (crowded_inside and of_path >= window // 2)

    def _begin_waiting(self, own: _Client) -> None:
        """Begins what waits, each path in its turn, as far as the window goes."""
        passed = 0  # paths in a row that may not: few, where there is room at all
        while passed < min(len(own.waiting), _FREE_PATHS + 1):
            path = next(iter(own.waiting))
            turns = own.waiting.pop(path)
            own.waiting[path] = turns  # behind the others
            if self._may_begin(own, path):
                passed = 0
                turn = next(iter(turns))
                self._leave(own, turn)
                self._begin(own, turn)
            else:
                passed += 1

    def _remembered(self, client: str) -> RecentUse[str]:
        """What a client has asked for lately; that of few others who have nothing under way is kept."""
        use = self._use_of_paths.get(client)
        if use is None:
            if len(self._use_of_paths) > 2 * (len(self._clients) + _REMEMBERED):
                kept = [one for one in self._use_of_paths if one not in self._clients][-_REMEMBERED:]
                self._use_of_paths = {one: self._use_of_paths[one] for one in (*self._clients, *kept)}
            use = self._use_of_paths[client] = RecentUse(dominated=True, clock=self._clock)
        return use

    def _leave(self, own: _Client, turn: Turn) -> None:
        """A turn waits no longer."""
        turns = own.waiting[turn.path]
        del turns[turn]
        self.waiting -= 1
        if not turns:
            del own.waiting[turn.path]

    def _begin(self, own: _Client, turn: Turn) -> None:
        turn.begun = True
        own.under_way += turn.cost
        own.by_path[turn.path] = own.by_path.get(turn.path, 0) + turn.cost
        turn.begin()


def _nobody() -> None:
    """Nobody waits: it has come at once."""
