"""Continues texts: after each pass the likeliest next token joins the sequence, which then runs again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from manyhats.backbone import Tokenizer
from manyhats.engine.forward import Row
from manyhats.engine.work import Output
from manyhats.serving.inputs import Notice
from manyhats.serving.outputs import Answer

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
    """All texts of one question. `wanted`: new tokens of each; `places`: the most tokens of a text, new ones too."""

    def __init__(self, rows: Sequence[Row], wanted: int, places: int, ends: frozenset[int]) -> None:
        self.texts: list[Continuation] = []
        self.warnings: list[Notice] = []  # what did not fit, and was cut
        for i, row in enumerate(rows):
            room = min(wanted, places - len(row.ids))
            self.texts.append(Continuation(row, room, ends))
            if room < wanted:
                told = f"max_new_tokens is {wanted}, but after input {i} there is room for {room} tokens"
                self.warnings.append(Notice(i, "max_new_tokens", told))

    def follow(self, index: int, logits: Output) -> Row | None:
        """For `engine.work.Work.follow`."""
        return self.texts[index].follow(logits)

    def outputs(self, tokenizer: Tokenizer) -> list[Answer]:
        """One answer for each text, once all are finished."""
        return [
            {"text": tokenizer.decode(text.tokens), "finish_reason": text.finished, "tokens": text.tokens}
            for text in self.texts
        ]

    @property
    def output_tokens(self) -> int:
        """Tokens added to all texts together."""
        return sum(len(text.tokens) for text in self.texts)
