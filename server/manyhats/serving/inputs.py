"""From a caller's texts to tokens: template, limits, truncation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from manyhats.backbone import Encoded, Text, Tokenizer
from manyhats.errors import InputTooLong, InvalidRequest, TooLarge


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the caller should know about one input. `input`: its index."""

    input: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs ready for the engine."""

    texts: list[Text]  # after the template
    encoded: list[Encoded]
    warnings: list[Notice]

    @property
    def tokens(self) -> int:
        """All tokens together."""
        return sum(len(e.ids) for e in self.encoded)


def check_texts(texts: Sequence[Text], *, max_inputs: int, max_characters: int) -> None:
    """Raises InvalidRequest for no input, an empty or a far too long one, and TooLarge for too many."""
    if not texts:
        raise InvalidRequest("there is no input; give a text or a list of texts", param="inputs")
    if len(texts) > max_inputs:
        raise TooLarge(f"there are {len(texts)} inputs; at most {max_inputs} in one call", param="inputs")
    for i, text in enumerate(texts):
        if not text.text.strip():
            raise InvalidRequest(f"input {i} is empty", param=f"inputs.{i}")
        length = len(text.text) + len(text.pair or "")
        if length > max_characters:
            raise InputTooLong(
                f"input {i} has {length} characters; at most {max_characters} are read", param=f"inputs.{i}"
            )


def fill_template(template: str | None, text: Text) -> Text:
    """`{text}` and `{text_pair}` replaced; nothing else in the template has a meaning."""
    if template is None:
        return text
    values = {"{text}": text.text, "{text_pair}": text.pair or ""}
    filled = re.sub(r"\{text\}|\{text_pair\}", lambda found: values[found[0]], template)
    return Text(filled, None if "{text_pair}" in template else text.pair)


def prepare(
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    *,
    template: str | None,
    max_tokens: int,
    truncate: bool,
    change: Callable[[Text], Text] = lambda text: text,
) -> Prepared:
    """Tokens of all texts. Raises InputTooLong, with both lengths, where one does not fit and may not be cut.

    `change`: what is done to a text when the template is filled.
    """
    filled = [change(fill_template(template, text)) for text in texts]
    return _checked(filled, tokenizer.encode(filled, max_tokens), max_tokens=max_tokens, truncate=truncate)


def prepare_prompt(tokenizer: Tokenizer, prompt: str, *, max_tokens: int, truncate: bool) -> Prepared:
    """Tokens of a prompt that is whole: no template, no special tokens but its own. Raises as `prepare`."""
    encoded = tokenizer.encode_bare(prompt, max_tokens)
    return _checked([Text(prompt)], [encoded], max_tokens=max_tokens, truncate=truncate)


def prepare_tokens(prompts: Sequence[Sequence[int]], *, vocabulary: int, max_tokens: int, truncate: bool) -> Prepared:
    """Prompts that are tokens already. Raises as `prepare`, and InvalidRequest for tokens that do not exist."""
    encoded = []
    for i, ids in enumerate(prompts):
        strange = next((token for token in ids if not 0 <= token < vocabulary), None)
        if strange is not None or not ids:
            told = "is empty" if strange is None else f"has the token {strange}; the backbone has {vocabulary}"
            raise InvalidRequest(f"prompt {i} {told}", param=f"prompt.{i}")
        kept = list(ids[:max_tokens])
        none: list[Any] = [None] * len(kept)
        zeros = [0] * len(kept)
        encoded.append(Encoded(kept, zeros, [(0, 0)] * len(kept), zeros, none, none, len(ids)))
    return _checked([Text("")] * len(encoded), encoded, max_tokens=max_tokens, truncate=truncate)


def _checked(filled: list[Text], encoded: list[Encoded], *, max_tokens: int, truncate: bool) -> Prepared:
    warnings: list[Notice] = []
    for i, one in enumerate(encoded):
        if one.full_length <= max_tokens:
            continue
        least = "at least " if one.at_least else ""
        told = f"input {i} has {least}{one.full_length} tokens; the task takes {max_tokens}"
        if not truncate:
            raise InputTooLong(
                f"{told}. Shorten it, or set parameters.truncate to true to use its beginning", param=f"inputs.{i}"
            )
        warnings.append(Notice(i, "truncated", f"{told}; the answer is for its first {len(one.ids)} tokens"))
    return Prepared(filled, encoded, warnings)
