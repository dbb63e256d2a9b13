"""Who sends a request, under which id, and until when an answer is of use to them.

The web layer sets it for each request, in a context variable: what runs for the request, in threads too, asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field


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
    """One request of a client. `deadline`: by `time.monotonic()`, after which nobody waits for its answer. `headers`:
    the first value of each, by its name in lower case."""

    id: str = ""
    caller: Caller = ANYBODY
    deadline: float | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """A header's value; None without one, or with an empty one."""
        value = self.headers.get(name.lower().encode("ascii"))
        return value.decode("latin-1") if value else None


NO_CALL = Call()
# Of what runs for a request; `NO_CALL` outside of any.
CURRENT_CALL: ContextVar[Call] = ContextVar("call", default=NO_CALL)
