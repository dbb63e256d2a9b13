"""Who sends a request, under which id, and until when an answer is of use to them.

The web layer sets it for each request, in a context variable: what runs for the request, in threads too, asks for it.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request. `tenant`: whose fair share it takes; empty: those without one share theirs.
    `key`: the name of the key, never the key. `weight`: the tenant's part beside others'."""

    tenant: str = ""
    key: str = ""
    weight: float = 1.0


ANYBODY = Caller()


@dataclass(slots=True)
class Call:
    """One request of a client. `deadline`: by `time.monotonic()`, after which nobody waits for its answer.
    `client`: the address that it came from."""

    id: str = ""
    caller: Caller = ANYBODY
    deadline: float | None = None
    client: str = ""

    @property
    def flow(self) -> str:
        """Whose fair share it takes: the tenant's, or the client's where it has none."""
        return self.caller.tenant or self.client

    def limit(self, deadline: float) -> None:
        """Nobody waits for its answer after `deadline` either."""
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline


NO_CALL = Call()
# Of what runs for a request; `NO_CALL` outside of any.
CURRENT_CALL: ContextVar[Call] = ContextVar("call", default=NO_CALL)
