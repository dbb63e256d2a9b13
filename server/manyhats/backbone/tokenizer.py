"""Text to token ids, safely from many threads.

The `tokenizers` object is used directly and never reconfigured after loading: truncation and padding settings of a
shared tokenizer are shared state. Inputs that are too long are truncated here, one by one, and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

from transformers import AutoTokenizer

from manyhats.backbone.decode_stream import DecodeStream
from manyhats.backbone.token_bytes import TokenBytes
from manyhats.errors import ConfigurationError
from manyhats.messages import first_line


@dataclass(frozen=True, slots=True)
class Text:
    """One input: a text, or a pair of them."""

    text: str
    pair: str | None = None


@dataclass(frozen=True, slots=True)
class TokenOrigins:
    """Where the tokens of one input come from. All lists have one entry per token, special tokens included."""

    offsets: list[tuple[int, int]]  # characters [start, end) in the text that the token came from
    special: list[int]  # 1 for a token that the tokenizer added
    words: list[int | None]  # index of the word; None for special tokens
    sequence_ids: list[int | None]  # 0 text, 1 pair, None special


@dataclass(slots=True, eq=False)
class Encoded:
    """The tokens of one input. All lists have one entry per token, special tokens included.

    `source`: their origins, or what the tokenizer gave, of which lists are made when they are asked for: most answers
    need none.
    """

    ids: list[int]
    type_ids: list[int]
    source: Any
    full_length: int  # tokens before any truncation
    at_least: bool = False  # whether only the text's beginning was tokenised, since the rest would be truncated

    @property
    def origins(self) -> TokenOrigins:
        """Where the tokens come from."""
        e = self.source
        if not isinstance(e, TokenOrigins):
            e = self.source = TokenOrigins(e.offsets, e.special_tokens_mask, e.word_ids, e.sequence_ids)
        return e

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Characters [start, end) in the text that each token came from."""
        return self.origins.offsets

    @property
    def special(self) -> list[int]:
        """1 for each token that the tokenizer added."""
        return self.origins.special

    @property
    def words(self) -> list[int | None]:
        """The index of each token's word; None for special tokens."""
        return self.origins.words

    @property
    def sequence_ids(self) -> list[int | None]:
        """0 for each token of the text, 1 of its pair, None for special ones."""
        return self.origins.sequence_ids


# How much of a long text is read at first; more where the text has more characters a token.
_CHARACTERS_A_TOKEN = 32
_SHORT = 16_384  # texts of so many characters are always read whole
# Spare tokens: the last ones of a beginning may differ from those of the whole text.
_MARGIN = 64
_WORD = 256  # characters before the end that are searched for white space, so that no word is split


class Tokenizer:
    """A loaded tokenizer. Every method may be called from any thread."""

    def __init__(self, source: str) -> None:
        try:
            # The operator names the source; code in it never runs.
            loaded: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)  # nosec B615  # as above
        except Exception as error:
            reason = first_line(error)
            raise ConfigurationError(f"the tokenizer of '{source}' cannot be loaded: {reason}") from error
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise ConfigurationError(f"'{source}' has no tokenizer.json; manyhats needs a fast tokenizer")
        backend.no_truncation()
        backend.no_padding()
        self._backend: Any = backend
        self._bytes: TokenBytes | None = None
        self.loaded = loaded
        self.mask_token: str | None = loaded.mask_token
        self.mask_id: int | None = loaded.mask_token_id
        self.maximum: int = int(min(loaded.model_max_length, 1 << 30))

    def encode_bare(self, text: str, max_tokens: int) -> Encoded:
        """Tokens of a text that contains all its special tokens."""
        read = self._beginning(text, max_tokens)
        e = self._backend.encode(read, add_special_tokens=False)
        full = len(e)
        if full > max_tokens:
            e.truncate(max_tokens)
        return _encoded(e, full, at_least=len(read) < len(text))

    def encode(self, texts: Sequence[Text], max_tokens: int) -> list[Encoded]:
        """Tokens with the special ones around them; at most `max_tokens` of them each.

        Of a pair the longer text is truncated first. `Encoded.full_length` counts the tokens before that. Reading stops
        once a text certainly has more than `max_tokens` (`at_least`).
        """
        read = [
            Text(self._beginning(t.text, max_tokens), None if t.pair is None else self._beginning(t.pair, max_tokens))
            for t in texts
        ]
        inputs = [t.text if t.pair is None else (t.text, t.pair) for t in read]
        if len(read) == 1:  # without giving up the interpreter's lock, which takes longer to come back than this does
            encodings = [self._backend.encode(read[0].text, read[0].pair, add_special_tokens=True)]
        else:
            encodings = self._backend.encode_batch(inputs, add_special_tokens=True)
        return [
            _encoded(e, len(e)) if len(e) <= max_tokens else self._truncated(t, max_tokens, len(e), at_least=t != given)
            for t, e, given in zip(read, encodings, texts, strict=True)
        ]

    def _beginning(self, text: str, max_tokens: int) -> str:
        """The text, or a beginning of it that has more than `max_tokens` tokens."""
        size = max(max_tokens * _CHARACTERS_A_TOKEN, _SHORT)
        while size < len(text):
            space = max(text.rfind(" ", size - _WORD, size), text.rfind("\n", size - _WORD, size))
            beginning = text[: space if space > 0 else size]
            if len(self._backend.encode(beginning, add_special_tokens=False)) > max_tokens + _MARGIN:
                return beginning
            size *= 4
        return text

    def encode_words(self, words: Sequence[str], max_tokens: int) -> Encoded:
        """Tokens of a text that is already split into words."""
        e = self._backend.encode(list(words), is_pretokenized=True)
        full = len(e)
        if full > max_tokens:
            e = self._backend.encode(list(words), is_pretokenized=True, add_special_tokens=False)
            e.truncate(max(max_tokens - self._backend.num_special_tokens_to_add(False), 0))
            e = self._backend.post_process(e, None, True)
        return _encoded(e, full)

    def token_id(self, token: str) -> int | None:
        """The id of a token; None for one that is not in the vocabulary."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def added_tokens(self) -> frozenset[str]:
        """The tokens that are recognised anywhere in a text before it is split otherwise."""
        return frozenset(added.content for added in self._backend.get_added_tokens_decoder().values())

    def is_single_token(self, token: str) -> bool:
        """Whether a text that is a token's name is read as that token."""
        ids: list[int] = self._backend.encode(token, add_special_tokens=False).ids
        return ids == [self.token_id(token)]

    def observed_settings(self) -> dict[str, bool]:
        """Its settings by transformers' names, as observed on sample texts."""
        ids = self._backend.encode("A").ids
        found = {}
        for name, index in (("bos", 0), ("eos", -1)):
            token = getattr(self.loaded, f"{name}_token_id")
            if token is not None:
                found[f"add_{name}_token"] = bool(ids) and ids[index] == token
        normalizer = self._backend.normalizer
        found["do_lower_case"] = normalizer is not None and normalizer.normalize_str("AB").strip("\u2581 ") == "ab"
        return found

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of some tokens, special ones left out or not."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def token_to_string(self, token: int) -> str:
        """The text of one token, special or not."""
        text: str = self._backend.decode([token], skip_special_tokens=False)
        return text

    def token_bytes(self, token: int, *, first: bool) -> bytes:
        """The bytes that a token adds to a text, maybe a part of a character; a special token's are its name. `first`:
        at the beginning of a text, where many tokenizers write no space."""
        return self._token_bytes().of(token, first)

    @property
    def special_ids(self) -> frozenset[int]:
        """The special tokens."""
        return self._token_bytes().special

    def _token_bytes(self) -> TokenBytes:
        if self._bytes is None or self._bytes.backend is not self._backend:
            self._bytes = TokenBytes(self._backend)
        return self._bytes

    def decode_stream(self, *, skip_special: bool = True) -> DecodeStream:
        """An incremental detokenizer."""
        return DecodeStream(partial(self.decode, skip_special=skip_special))

    def _truncated(self, text: Text, max_tokens: int, full_length: int, *, at_least: bool) -> Encoded:
        capacity = max(max_tokens - self._backend.num_special_tokens_to_add(text.pair is not None), 0)
        first = self._backend.encode(text.text, add_special_tokens=False)
        if text.pair is None:
            first.truncate(capacity)
            return _encoded(self._backend.post_process(first, None, True), full_length, at_least=at_least)
        second = self._backend.encode(text.pair, add_special_tokens=False)
        keep_first, keep_second = len(first), len(second)
        shorter = min(keep_first, keep_second, capacity // 2)
        if keep_first > keep_second:
            keep_second = min(keep_second, max(shorter, capacity - keep_first))
            keep_first = capacity - keep_second
        else:
            keep_first = min(keep_first, max(shorter, capacity - keep_second))
            keep_second = capacity - keep_first
        first.truncate(min(keep_first, len(first)))
        second.truncate(min(keep_second, len(second)))
        both = _encoded(self._backend.post_process(first, second, True), full_length, at_least=at_least)
        # tokenizers loses the first text's sequence id where only that was truncated
        own = count()
        sequence_ids = [None if special else int(next(own) >= len(first)) for special in both.special]
        return replace(both, source=replace(both.origins, sequence_ids=sequence_ids))


def _encoded(e: Any, full_length: int, *, at_least: bool = False) -> Encoded:
    return Encoded(e.ids, e.type_ids, e, full_length, at_least)
