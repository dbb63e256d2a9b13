"""A text while its tokens come: what may be shown already, and whether a stop string has come."""

from __future__ import annotations

from collections.abc import Sequence

from manyhats.backbone import Tokenizer


class TextWriter:
    """Turns tokens into text, piece by piece.

    A piece is held back while it may end inside a character, or may be the beginning of a stop string. The pieces
    together are what decoding all tokens at once gives, up to the stop string. A stop string counts that ends behind
    the first `stop_after` tokens. `skip_special`: special tokens are no text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        keep_stop: bool = False,
        stop_after: int = 0,
        skip_special: bool = True,
    ) -> None:
        self.skip_special = skip_special
        self._decoder = tokenizer.decode_stream(skip_special=skip_special)
        self._stops = tuple(stops)
        self._keep_stop = keep_stop
        self._stop_after = stop_after
        self._count = 0  # tokens
        self._decoded = ""  # all of it, shown or not
        self._shown = 0
        self.stop: str | None = None  # the stop string that has come

    @property
    def text(self) -> str:
        """What has been shown."""
        return self._decoded[: self._shown]

    def push(self, token: int) -> str:
        """What may be shown after one more token."""
        self._count += 1
        return self._add(self._decoder.push(token))

    def finish(self) -> str:
        """What was held back until now."""
        if self.stop is None:
            piece = self._add(self._decoder.finish())
            if self.stop is None:
                piece += self._show(len(self._decoded))
            return piece
        return ""

    def _add(self, new: str) -> str:
        if not new:
            return ""
        begin = len(self._decoded)
        self._decoded += new
        found = self._find(begin) if self._count > self._stop_after else None
        if found is not None:
            place, self.stop = found
            return self._show(place + len(self.stop) if self._keep_stop else place)
        return self._show(len(self._decoded) - self._held())

    def _find(self, begin: int) -> tuple[int, str] | None:
        """The stop string that ends first, and where it begins."""
        found: list[tuple[int, int, str]] = []
        for stop in self._stops:
            place = self._decoded.find(stop, max(begin - len(stop) + 1, 0))
            if place >= 0:
                found.append((place + len(stop), place, stop))
        return min(found)[1:] if found else None

    def _held(self) -> int:
        """How many characters at the end may begin a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._decoded)), longest, -1):
                if self._decoded.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _show(self, end: int) -> str:
        piece = self._decoded[self._shown : end]
        self._shown = max(self._shown, end)
        if self.stop is not None:
            self._decoded = self._decoded[: self._shown]
        return piece
