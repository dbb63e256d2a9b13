"""Text to token ids, safely from many threads.

The `tokenizers` object is used directly and never reconfigured after loading: truncation and padding switches on a
shared tokenizer are shared state. An input that is too long is cut here, one by one, and the cut is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from manyhats.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Text:
    """One input: a text, or a pair of them."""

    text: str
    pair: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one input. All lists have one entry per token, special tokens included."""

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]  # characters [start, end) in the text that the token came from
    special: list[int]  # 1 for a token that the tokenizer added
    words: list[int | None]  # index of the word; None for special tokens
    sequence_ids: list[int | None]  # 0 text, 1 pair, None special
    full_length: int  # tokens before any cut


class Tokenizer:
    """A loaded tokenizer. Every method may be called from any thread."""

    def __init__(self, source: str) -> None:
        try:
            loaded: Any = AutoTokenizer.from_pretrained(source)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigurationError(f"the tokenizer of '{source}' cannot be loaded: {reason}") from error
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise ConfigurationError(f"'{source}' has no tokenizer.json; manyhats needs a fast tokenizer")
        backend.no_truncation()
        backend.no_padding()
        self._backend: Any = backend
        self.loaded = loaded
        self.mask_token: str | None = loaded.mask_token
        self.mask_id: int | None = loaded.mask_token_id
        self.maximum: int = int(min(loaded.model_max_length, 1 << 30))

    def encode_bare(self, text: str, max_tokens: int) -> Encoded:
        """Tokens of a text that has all its special tokens written out."""
        e = self._backend.encode(text, add_special_tokens=False)
        full = len(e)
        if full > max_tokens:
            e.truncate(max_tokens)
        return _encoded(e, full)

    def encode(self, texts: Sequence[Text], max_tokens: int) -> list[Encoded]:
        """Tokens with the special ones around them; at most `max_tokens` of them each.

        Of a pair the longer text is cut first. `Encoded.full_length` tells how many tokens there were.
        """
        inputs = [t.text if t.pair is None else (t.text, t.pair) for t in texts]
        encodings = self._backend.encode_batch(inputs, add_special_tokens=True)
        return [
            _encoded(e, len(e)) if len(e) <= max_tokens else self._cut(t, max_tokens, len(e))
            for t, e in zip(texts, encodings, strict=True)
        ]

    def encode_words(self, words: Sequence[str], max_tokens: int) -> Encoded:
        """Tokens of a text that is already split into words."""
        e = self._backend.encode(list(words), is_pretokenized=True)
        full = len(e)
        if full > max_tokens:
            e = self._backend.encode(list(words), is_pretokenized=True, add_special_tokens=False)
            e.truncate(max(max_tokens - self._backend.num_special_tokens_to_add(False), 0))
            e = self._backend.post_process(e, None, True)
        return _encoded(e, full)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of some tokens, special ones left out or not."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def piece(self, token: int) -> str:
        """The text of one token, special or not."""
        text: str = self._backend.decode([token], skip_special_tokens=False)
        return text

    def decode_stream(self, *, skip_special: bool = True) -> Callable[[int], str]:
        """Takes tokens one by one, and gives the text that is sure after each."""
        stream = DecodeStream(skip_special_tokens=skip_special)
        return lambda token: stream.step(self._backend, token) or ""

    def _cut(self, text: Text, max_tokens: int, full_length: int) -> Encoded:
        room = max(max_tokens - self._backend.num_special_tokens_to_add(text.pair is not None), 0)
        first = self._backend.encode(text.text, add_special_tokens=False)
        if text.pair is None:
            first.truncate(room)
            return _encoded(self._backend.post_process(first, None, True), full_length)
        second = self._backend.encode(text.pair, add_special_tokens=False)
        keep_first, keep_second = len(first), len(second)
        shorter = min(keep_first, keep_second, room // 2)
        if keep_first > keep_second:
            keep_second = min(keep_second, max(shorter, room - keep_first))
            keep_first = room - keep_second
        else:
            keep_first = min(keep_first, max(shorter, room - keep_second))
            keep_second = room - keep_first
        first.truncate(min(keep_first, len(first)))
        second.truncate(min(keep_second, len(second)))
        whole = _encoded(self._backend.post_process(first, second, True), full_length)
        # tokenizers forgets the first text's sequence where it alone was cut
        own = count()
        sequence_ids = [None if special else int(next(own) >= len(first)) for special in whole.special]
        return replace(whole, sequence_ids=sequence_ids)


def _encoded(e: Any, full_length: int) -> Encoded:
    return Encoded(
        ids=e.ids,
        type_ids=e.type_ids,
        offsets=e.offsets,
        special=e.special_tokens_mask,
        words=e.word_ids,
        sequence_ids=e.sequence_ids,
        full_length=full_length,
    )
