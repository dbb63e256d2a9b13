"""From a caller's texts to tokens: template, limits, truncation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

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
    tokenizer: Tokenizer, texts: Sequence[Text], *, template: str | None, max_tokens: int, truncate: bool
) -> Prepared:
    """Tokens of all texts. Raises InputTooLong, with both lengths, where one does not fit and may not be cut."""
    filled = [fill_template(template, text) for text in texts]
    encoded = tokenizer.encode(filled, max_tokens)
    warnings: list[Notice] = []
    for i, one in enumerate(encoded):
        if one.full_length <= max_tokens:
            continue
        told = f"input {i} has {one.full_length} tokens; the task takes {max_tokens}"
        if not truncate:
            raise InputTooLong(
                f"{told}. Shorten it, or set parameters.truncate to true to use its beginning", param=f"inputs.{i}"
            )
        warnings.append(Notice(i, "truncated", f"{told}; the answer is for its first {len(one.ids)} tokens"))
    return Prepared(filled, encoded, warnings)
