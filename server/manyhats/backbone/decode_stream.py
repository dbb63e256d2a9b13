"""Incremental detokenization."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"
_MAX_PENDING = 32  # tokens: a character has four bytes


class DecodeStream:
    """Returns the text that is certain after each token. `decode`: tokens to text.

    Incomplete characters are held back. A token is decoded after the tokens of the previous text, since many tokenizers
    write spaces only between words (as in Text Generation Inference).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []  # the tokens of the last text
        self._pending: list[int] = []  # the tokens without text so far

    def push(self, token: int) -> str:
        """The text that one more token adds."""
        self._pending.append(token)
        new = self._new()
        if (not new or new.endswith(_BROKEN)) and len(self._pending) < _MAX_PENDING:
            return ""
        self._context, self._pending = self._pending, []
        return new

    def finish(self) -> str:
        """The text held back: incomplete characters."""
        new = self._new()
        self._pending = []
        return new

    def _new(self) -> str:
        return self._decode(self._context + self._pending)[len(self._decode(self._context)) :]
