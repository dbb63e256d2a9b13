"""Tokens of texts without a pass: what the routes of vLLM and TEI share."""

from __future__ import annotations

from collections.abc import Sequence

from manyhats.api.model_names import task_of, unknown_model
from manyhats.backbone import Encoded, Text, Tokenizer
from manyhats.errors import InputTooLong, NotFound
from manyhats.registry.names import BASE
from manyhats.registry.visibility import check_base
from manyhats.runtime import Runtime
from manyhats.serving.inputs import check_tokens

_ALL = 1 << 30  # tokens


def encode(tokenizer: Tokenizer, text: str, *, special: bool) -> Encoded:
    """All tokens of a text, with the tokenizer's special ones around them or without."""
    return tokenizer.encode([Text(text)], _ALL)[0] if special else tokenizer.encode_bare(text, _ALL)


def check_known(runtime: Runtime, tokens: Sequence[int]) -> None:
    """Raises InvalidRequest for tokens that the backbone does not have."""
    if tokens:
        check_tokens([tokens], int(runtime.backbone.config.vocab_size))


def check_model(runtime: Runtime, model: str | None) -> None:
    """Raises NotFound for the name of a model that is not there."""
    if model is None:
        return
    task = task_of(runtime, model)
    try:
        if task == BASE:
            check_base()
        else:
            runtime.registry.lookup(task)
    except NotFound:
        raise unknown_model(model) from None


def check_length(runtime: Runtime, text: str, field: str) -> None:
    """Raises InputTooLong for a text of too many characters."""
    limit = runtime.settings.max_characters
    if len(text) > limit:
        raise InputTooLong(f"'{field}' has {len(text)} characters; at most {limit} are read", param=field)
