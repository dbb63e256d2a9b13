"""The bytes of a token in a text."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte of SentencePiece's
_TRIED = 5000  # tokens searched for an ordinary word


class TokenBytes:
    """The bytes of one `tokenizers` tokenizer's tokens. Thread-safe."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        types = decoder_types(backend.decoder)
        self._byte_level = "ByteLevel" in types
        self._byte_fallback = "ByteFallback" in types
        self.special = frozenset(i for i, t in backend.get_added_tokens_decoder().items() if t.special)
        self._word: tuple[int, str] | None = None
        self._searched = False
        self.of = lru_cache(1 << 15)(self._of)

    def _of(self, token: int, first: bool) -> bytes:
        """The bytes that the token adds to a text. `first`: at its beginning, where many tokenizers write no space.

        They may be a part of a character. A special token's are its name, an unknown token's are empty.
        """
        name: str | None = self.backend.id_to_token(token)
        if name is None:
            return b""
        if token in self.special:
            return name.encode()
        if self._byte_level:
            known = [_BYTES.get(letter) for letter in name]
            return name.encode() if None in known else bytes(b for b in known if b is not None)
        if self._byte_fallback and (found := _BYTE.fullmatch(name)):
            return bytes([int(found[1], 16)])
        alone: str = self.backend.decode([token], skip_special_tokens=False)
        word = None if first else self._ordinary()
        if word is None:
            return alone.encode()
        behind: str = self.backend.decode([word[0], token], skip_special_tokens=False)
        return (behind[len(word[1]) :] if behind.startswith(word[1]) else alone).encode()

    def _ordinary(self) -> tuple[int, str] | None:
        """A token that is a word of letters, and its text, after which other tokens are decoded."""
        if not self._searched:
            for token in range(min(self.backend.get_vocab_size(), _TRIED)):
                text = "" if token in self.special else self.backend.decode([token], skip_special_tokens=False)
                if text.isascii() and text.isalnum():
                    self._word = token, text
                    break
            self._searched = True
        return self._word


def decoder_types(decoder: Any) -> set[str]:
    """The types of a `tokenizers` decoder and of its parts.

    Read from its pickled state: the objects have no public field for it, and the tokenizer's public `to_str` writes the
    whole vocabulary.
    """
    if decoder is None:
        return set()
    found: set[str] = set()
    waiting: list[Any] = [json.loads(decoder.__getstate__())]
    while waiting:
        one = waiting.pop()
        found.add(one["type"])
        waiting += one.get("decoders", [])
    return found


def _letters() -> dict[str, int]:
    """The byte of each letter of a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in plain]
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _letters()
