"""Continues texts: after each pass the likeliest next token joins the sequence, which then runs again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from manyhats.engine.forward import Row
from manyhats.engine.work import Output

FinishReason = Literal["stop", "length"]


@dataclass(slots=True)
class Continuation:
    """One text on its way. `room`: how many tokens may be added; `ends`: tokens that end a text."""

    row: Row
    room: int
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    finished: FinishReason = "length"

    def follow(self, logits: Output) -> Row | None:
        """Takes the next token from the logits (vocabulary,); the longer row to run next, or None at the end."""
        token = int(logits.argmax())
        if token in self.ends:
            self.finished = "stop"
            return None
        self.tokens.append(token)
        if len(self.tokens) >= self.room:
            return None
        self.row = replace(self.row, ids=[*self.row.ids, token], type_ids=[*self.row.type_ids, 0])
        return self.row


class Generation:
    """All texts of one question."""

    def __init__(self, rows: Sequence[Row], rooms: Sequence[int], ends: frozenset[int]) -> None:
        self.texts = [Continuation(row, room, ends) for row, room in zip(rows, rooms, strict=True)]

    def follow(self, index: int, logits: Output) -> Row | None:
        """For `engine.work.Work.follow`."""
        return self.texts[index].follow(logits)

    @property
    def output_tokens(self) -> int:
        """Tokens added to all texts together."""
        return sum(len(text.tokens) for text in self.texts)
