"""Where every thread is, written to stderr by a thread of C, where Python's own threads have stood still.

A call into C that keeps the interpreter's lock stops all of them: the event loop, and what looks after the others.
Nothing in Python can notice that. faulthandler's timer can, which needs no lock: whoever runs puts it off again and
again, and when nobody does, it writes the stacks, the one that holds the lock among them.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import time

logger = logging.getLogger(__name__)


class StackDumps:
    """Writes all stacks once nothing has put it off for `after` seconds, and again after each further `after`.

    One timer a process: `manyhats serve` has it, what runs a server as a library may use it otherwise. Raises nothing.
    """

    def __init__(self, after: float) -> None:
        self.after = after
        self._next = 0.0

    def put_off(self) -> None:
        """Begins anew to wait; called often, it does so a few times in `after`. In any thread."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + min(self.after / 4, 1.0)
        try:
            faulthandler.dump_traceback_later(self.after, repeat=True, file=sys.__stderr__ or 2)
        except (OSError, RuntimeError, ValueError) as error:  # no stderr, or no thread
            self._next = float("inf")
            logger.warning("stacks will not be written where the interpreter stands still: %s", error)

    def stop(self) -> None:
        """Writes nothing from now on."""
        self._next = float("inf")
        faulthandler.cancel_dump_traceback_later()
