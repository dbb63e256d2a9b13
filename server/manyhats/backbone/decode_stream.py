"""Tokens to text one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"
_MAX_PENDING = 32  # tokens: a character has four bytes


class DecodeStream:
    """Gives the text that is sure after each token; `decode` leaves special tokens out.

    Text that ends inside a character is held back. What a token adds is seen behind the tokens that added the text
    before it, since many tokenizers write a space between words alone (the way of Text Generation Inference).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []  # the tokens that gave the last text
        self._pending: list[int] = []  # those that have given none yet

    def push(self, token: int) -> str:
        """What one more token adds."""
        self._pending.append(token)
        new = self._new()
        if (not new or new.endswith(_BROKEN)) and len(self._pending) < _MAX_PENDING:
            return ""
        self._context, self._pending = self._pending, []
        return new

    def finish(self) -> str:
        """What is held back: broken characters."""
        new = self._new()
        self._pending = []
        return new

    def _new(self) -> str:
        return self._decode(self._context + self._pending)[len(self._decode(self._context)) :]
