"""The text of each token: its characters or bytes, and its offset."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from manyhats.backbone import Encoded, Tokenizer


class TokenText(NamedTuple):
    """A token in a text. `text`: its characters, or `bytes:\\xe2\\x96` where they are incomplete; a special token's is
    its name, though it is not in the text. `offset`: of its first character, in characters."""

    text: str
    bytes: bytes
    offset: int


class TokenTexts:
    """Incremental texts of decoded tokens. `offset`: of the first token; `skip_special`: whether special tokens are
    left out of the text."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decode_stream(skip_special=skip_special)
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._end = offset
        self._last = offset  # the last token's
        self._pending = b""  # of tokens whose characters are incomplete
        self.first = True  # whether there has been no character yet

    def push(self, token: int) -> TokenText:
        """The next token."""
        raw = self._tokenizer.token_bytes(token, first=self.first)
        new = self._decoder.push(token)
        if token in self._skipped:
            return TokenText(raw.decode(errors="replace"), raw, max(self._end, self._last))
        if new and not self._pending:
            raw = new.encode(errors="replace")
        found = _placed(raw, self._pending, self._end)
        self._pending = b"" if new else self._pending + raw
        if not new and not self._pending:
            return TokenText("", b"", max(self._end, self._last))
        self._end += len(new)
        self.first = False
        # Some decoders change the text of invalid bytes when more follow.
        offset = min(found.offset, self._end) if new else found.offset
        self._last = max(self._last, offset)
        return found._replace(offset=self._last)

    def alternative(self, token: int) -> TokenText:
        """The text of an alternative for the next token."""
        raw = self._tokenizer.token_bytes(token, first=self.first)
        return TokenText(_name(raw), raw, self._end)


def prompt_token_texts(
    tokenizer: Tokenizer, text: str | None, encoded: Encoded, *, skip_special: bool = True
) -> tuple[str, list[TokenText]]:
    """The part of a prompt that was read, and its tokens.

    `text`: None where it was given as tokens; `skip_special`: whether their special ones are left out.
    """
    if text is None:
        texts = TokenTexts(tokenizer, skip_special=skip_special)
        decoded = tokenizer.decode(encoded.ids, skip_special=skip_special)
        return decoded, [texts.push(token) for token in encoded.ids]
    begin, end = 0, len(text)
    if encoded.full_length > len(encoded.ids):
        own = [o for o, special in zip(encoded.offsets, encoded.special, strict=True) if not special]
        begin, end = (own[0][0], own[-1][1]) if own else (0, 0)
        if encoded.offsets and own and _is_beginning(encoded):
            begin = 0
    part = text[begin:end]
    return part, _by_bytes(tokenizer, part, encoded) or _by_offsets(tokenizer, text, encoded, begin)


def _is_beginning(encoded: Encoded) -> bool:
    """Whether truncation has kept the beginning, which shows by the first word."""
    first = next((w for w in encoded.words if w is not None), None)
    return first in (None, 0)


def _by_bytes(tokenizer: Tokenizer, text: str, encoded: Encoded) -> list[TokenText] | None:
    """By the tokens' bytes, where they are those of the text, except maybe for a leading space; else None."""
    raws = [tokenizer.token_bytes(token, first=False) for token in encoded.ids]
    own = [i for i, special in enumerate(encoded.special) if not special]
    joined, whole = b"".join(raws[i] for i in own), text.encode(errors="replace")
    if joined != whole:
        if joined != b" " + whole or not own:
            return None
        lead = next(i for i in own if raws[i])
        raws[lead] = raws[lead][1:]
    found = []
    offset, pending = 0, b""
    for raw, special in zip(raws, encoded.special, strict=True):
        if special:
            found.append(TokenText(raw.decode(errors="replace"), raw, offset))
            continue
        found.append(_placed(raw, pending, offset))
        pending += raw
        left = _left_over(pending)
        offset += len(pending[: len(pending) - left].decode(errors="replace"))
        pending = pending[len(pending) - left :]
    return found


def _by_offsets(tokenizer: Tokenizer, text: str, encoded: Encoded, begin: int) -> list[TokenText]:
    """By the tokenizer's offsets. `begin`: of the part that is returned."""
    found: list[TokenText] = []
    end = begin
    offsets = list(encoded.offsets)
    for i, (token, (start, stop), special) in enumerate(zip(encoded.ids, offsets, encoded.special, strict=True)):
        raw = tokenizer.token_bytes(token, first=False)
        if special:
            found.append(TokenText(raw.decode(errors="replace"), raw, end - begin))
            continue
        neighbours = [offsets[j] for j in (i - 1, i + 1) if 0 <= j < len(offsets) and not encoded.special[j]]
        shared = any(max(start, a) < min(stop, b) for a, b in neighbours)  # a character of several tokens
        if raw[:1] == b" " and start > end and text[start - 1] == " ":  # some exclude the space before a word
            start -= 1
        own = text[start:stop]
        if shared and (name := _name(raw)).startswith("bytes:"):
            found.append(TokenText(name, raw, start - begin))
        else:
            if shared and not text.startswith(name, start):
                own = own if name.strip() else ""
            elif shared:
                own = name
            found.append(TokenText(own, own.encode(errors="replace"), start - begin))
        end = max(end, stop)
    return found


def _placed(raw: bytes, pending: bytes, end: int) -> TokenText:
    """A token after the bytes of an incomplete character, which begins at `end`."""
    if raw[:1] and 0x80 <= raw[0] < 0xC0:  # continues a character
        before = codecs.getincrementaldecoder("utf-8")("replace").decode(pending)
    else:
        before = pending.decode(errors="replace")
    return TokenText(_name(raw), raw, end + len(before))


def _left_over(data: bytes) -> int:
    """The number of bytes at the end that begin an incomplete character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(decoder.getstate()[0])


def _name(raw: bytes) -> str:
    """The bytes as characters, or in OpenAI's notation where these are incomplete."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(b) if 32 <= b < 127 and b != 92 else f"\\x{b:02x}" for b in raw)


def token_names(tokens: Sequence[tuple[int, str]]) -> list[str]:
    """Distinct names for tokens at one position: of those with equal texts, only the first is named by it."""
    used: set[str] = set()
    names = []
    for token, text in tokens:
        name = f"token_id:{token}" if text in used else text
        used.add(name)
        names.append(name)
    return names
