"""What is asked, and what an answer says in terms that no route has for itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Question:
    """A POST of JSON. `refs`: the tasks that it names; `text`: which of the texts; `streamed`: server-sent events."""

    route: str
    path: str
    body: dict[str, Any]
    refs: tuple[str, ...]
    text: int
    streamed: bool = False
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What one task is said to answer. `digest`: which adapter the answer names, if it names one; `what`: which part
    of the reference `value` is; `code`: of an error in its place."""

    ref: str
    digest: str | None = None
    what: str = ""
    value: Any = None
    code: int | None = None


class Work(Protocol):
    """What tasks of a backbone are asked."""

    texts: int

    def alone(self, ref: str, kind: str, text: int) -> Question:
        """The question whose answer is the reference."""
        ...

    def reference(self, kind: str, body: Any) -> dict[str, Any]:
        """All parts of the answer to it."""
        ...

    def ask(self, pick: random.Random, tasks: Sequence[tuple[str, str]]) -> Question:
        """A question to the first of these tasks (name and kind), or to all of them."""
        ...

    def read(self, question: Question, body: Any) -> list[Found]:
        """What an answer with status 200 says. `body`: its JSON, or the events' JSON of a stream. Raises KeyError,
        IndexError, TypeError or ValueError where it has not the route's form."""
        ...

    def same(self, what: str, value: Any, reference: dict[str, Any]) -> bool:
        """Whether it is the reference, up to rounding."""
        ...
