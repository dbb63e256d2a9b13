"""From a caller's texts to tokens: template, limits, truncation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from manyhats.backbone import Encoded, Text, Tokenizer, TokenOrigins
from manyhats.errors import InputTooLong, InvalidRequest, TooLarge
from manyhats.messages import short_repr

_ALL = 1 << 30  # tokens
_MAX_FILLED = 4_000_000  # characters of one input in its template
_MAX_FILLED_TOGETHER = 32_000_000  # of all inputs of a call


@dataclass(frozen=True, slots=True)
class InputWarning:
    """A warning about one input. `input`: its index."""

    input: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class PromptTruncation:
    """Truncation of prompts to a number of tokens, as requested: the last ones (`side` left) or the first.

    The tokenizer's special tokens around a text are kept, and counted.
    """

    tokens: int
    side: Literal["left", "right"] = "left"

    def apply(self, encoded: Encoded) -> Encoded:
        """The tokens that are kept."""
        size = len(encoded.ids)
        if size <= self.tokens:
            return encoded
        begin = next((i for i, special in enumerate(encoded.special) if not special), size)
        end = size - next((i for i, special in enumerate(reversed(encoded.special)) if not special), 0)
        own_kept = max(self.tokens - begin - (size - end), 0)
        own = range(end - own_kept, end) if self.side == "left" else range(begin, begin + own_kept)
        kept = [*range(begin), *own, *range(end, size)][: self.tokens]
        origins = encoded.origins
        return replace(
            encoded,
            ids=[encoded.ids[i] for i in kept],
            type_ids=[encoded.type_ids[i] for i in kept],
            source=TokenOrigins(
                offsets=[origins.offsets[i] for i in kept],
                special=[origins.special[i] for i in kept],
                words=[origins.words[i] for i in kept],
                sequence_ids=[origins.sequence_ids[i] for i in kept],
            ),
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs ready for the engine."""

    texts: list[Text]  # after the template
    encoded: list[Encoded]
    warnings: list[InputWarning]

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
    """The template with `{text}` and `{text_pair}` replaced, and nothing else."""
    if template is None:
        return text
    values = {"{text}": text.text, "{text_pair}": text.pair or ""}
    filled = re.sub(r"\{text\}|\{text_pair\}", lambda found: values[found[0]], template)
    return Text(filled, None if "{text_pair}" in template else text.pair)


def filled_size(template: str | None, text: Text) -> int:
    """The number of characters of a text in the template, without filling it."""
    own, pair = len(text.text), len(text.pair or "")
    if template is None:
        return own + pair
    return len(template) + template.count("{text}") * own + template.count("{text_pair}") * pair


def check_filled(template: str | None, texts: Sequence[Text]) -> None:
    """Raises InputTooLong for texts that would be far too long in the template, without filling it."""
    if template is None:
        return
    total = 0
    for i, text in enumerate(texts):
        size = filled_size(template, text)
        total += size
        if size > _MAX_FILLED or total > _MAX_FILLED_TOGETHER:
            found = f"input {i} has {size} characters" if size > _MAX_FILLED else f"the inputs have {total} characters"
            limit = _MAX_FILLED if size > _MAX_FILLED else _MAX_FILLED_TOGETHER
            raise InputTooLong(
                f"{found} once they stand in the task's template; at most {limit} are read", param=f"inputs.{i}"
            )


def prepare(
    tokenizer: Tokenizer,
    texts: Sequence[Text],
    *,
    template: str | None,
    max_tokens: int,
    truncate: bool,
    truncation: PromptTruncation | None = None,
    transform: Callable[[Text], Text] | None = None,
) -> Prepared:
    """Tokens of all texts. Raises InputTooLong, with both lengths, where one does not fit and may not be truncated.

    `transform`: applied to a text after the template.
    """
    filled = fill(texts, template=template, transform=transform)
    encoded = tokenizer.encode(filled, _tokens_read(max_tokens, truncation))
    return check_lengths(filled, encoded, max_tokens=max_tokens, truncate=truncate, truncation=truncation)


def fill(texts: Sequence[Text], *, template: str | None, transform: Callable[[Text], Text] | None) -> list[Text]:
    """The texts as they are tokenised. Raises InputTooLong for what would be far too long in the template."""
    check_filled(template, texts)
    in_template = (fill_template(template, text) for text in texts)
    return list(in_template if transform is None else map(transform, in_template))


def prepare_prompt(
    tokenizer: Tokenizer, prompt: str, *, max_tokens: int, truncate: bool, truncation: PromptTruncation | None = None
) -> Prepared:
    """Tokens of a complete prompt, without a template or added special tokens. Raises as `prepare`."""
    encoded = tokenizer.encode_bare(prompt, _tokens_read(max_tokens, truncation))
    return check_lengths([Text(prompt)], [encoded], max_tokens=max_tokens, truncate=truncate, truncation=truncation)


def prepare_tokens(
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: int,
    max_tokens: int,
    truncate: bool,
    truncation: PromptTruncation | None = None,
) -> Prepared:
    """Prompts given as tokens. Raises as `prepare`, and InvalidRequest for unknown tokens."""
    check_tokens(prompts, vocabulary)
    encoded = []
    for ids in prompts:
        kept = list(ids[: _tokens_read(max_tokens, truncation)])
        none: list[Any] = [None] * len(kept)
        zeros = [0] * len(kept)
        origins = TokenOrigins([(0, 0)] * len(kept), zeros, none, none)
        encoded.append(Encoded(kept, zeros, origins, len(ids)))
    return check_lengths(
        [Text("")] * len(encoded), encoded, max_tokens=max_tokens, truncate=truncate, truncation=truncation
    )


def check_tokens(prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
    """Raises InvalidRequest for an empty prompt, or unknown tokens."""
    for i, ids in enumerate(prompts):
        unknown = next((token for token in ids if not 0 <= token < vocabulary), None)
        if unknown is not None or not ids:
            problem = (
                "is empty"
                if unknown is None
                else f"has the token {short_repr(unknown)}; the backbone has 0 to {vocabulary - 1}"
            )
            raise InvalidRequest(f"prompt {i} {problem}", param=f"prompt.{i}")


def _tokens_read(max_tokens: int, truncation: PromptTruncation | None) -> int:
    """How many tokens of a text to read: all of them where the last ones may be kept."""
    return max_tokens if truncation is None else _ALL


def check_lengths(
    filled: list[Text],
    encoded: list[Encoded],
    *,
    max_tokens: int,
    truncate: bool,
    truncation: PromptTruncation | None = None,
) -> Prepared:
    """Inputs of at most so many tokens, with a warning for each one that is truncated.

    Raises InputTooLong where one does not fit and may not be.
    """
    if truncation is not None:
        encoded = [truncation.apply(one) for one in encoded]
    warnings: list[InputWarning] = []
    for i, one in enumerate(encoded):
        length = one.full_length if truncation is None else len(one.ids)
        if length <= max_tokens:
            continue
        at_least = "at least " if one.at_least else ""
        found = f"input {i} has {at_least}{length} tokens; the task takes {max_tokens}"
        if not truncate:
            raise InputTooLong(
                f"{found}. Shorten it, or set parameters.truncate to true to use its beginning", param=f"inputs.{i}"
            )
        part = "first"
        if truncation is not None:
            encoded[i] = replace(truncation, tokens=max_tokens).apply(one)
            part = "last" if truncation.side == "left" else "first"
        warnings.append(
            InputWarning(i, "truncated", f"{found}; the answer is for its {part} {len(encoded[i].ids)} tokens")
        )
    return Prepared(filled, encoded, warnings)
