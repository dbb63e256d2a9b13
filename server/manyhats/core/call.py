"""Who sends a request, under which id, and until when an answer is of use to them.

The web layer sets it for each request, in a context variable: what runs for the request, in threads too, asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from manyhats.core.answered import Answered


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request. `tenant`: whose fair share it takes; empty: those without one share theirs.
    `key`: the name of the key, never the key. `weight`: the tenant's part beside others'. `tasks`: what the names of
    the tasks that it may ask are like, None for all; no other task is there for it. `namespace`: how the names of all
    tasks that it makes begin."""

    tenant: str = ""
    key: str = ""
    weight: float = 1.0
    tasks: re.Pattern[str] | None = None
    namespace: str = ""

    def sees(self, task: str) -> bool:
        """Whether a task of that name is there for it, or would be."""
        return self.tasks is None or self.tasks.fullmatch(task) is not None


ANYBODY = Caller()


@dataclass(slots=True)
class Call:
    """One request of a client. `deadline`: by `time.monotonic()`, after which nobody waits for its answer. `spend`: is
    told of the tokens that each answer took, where somebody counts them. `headers`: the first value of each, by its
    name in lower case. `client`: the address that it came from.

    What became of it is set on its way: `route`, the pattern that its path fits; `status` of the answer, 0 where none
    was begun; `error`, the type that its caller sees; and, where somebody wants them, `answers`, one for each item.
    `with_texts`: whether those have what was asked and answered.
    """

    id: str = ""
    caller: Caller = ANYBODY
    deadline: float | None = None
    spend: Callable[[int], None] | None = None
    route: str = ""
    status: int = 0
    error: str = ""
    answers: list[Answered] | None = None
    with_texts: bool = False
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    client: str = ""

    @property
    def flow(self) -> str:
        """Whose fair share it takes: the tenant's, or the client's where it has none."""
        return self.caller.tenant or self.client

    def limit(self, deadline: float) -> None:
        """Nobody waits for its answer after `deadline` either."""
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline

    def header(self, name: str) -> str | None:
        """A header's value; None without one, or with an empty one."""
        value = self.headers.get(name.lower().encode("ascii"))
        return value.decode("latin-1") if value else None


NO_CALL = Call()
# Of what runs for a request; `NO_CALL` outside of any.
CURRENT_CALL: ContextVar[Call] = ContextVar("call", default=NO_CALL)
