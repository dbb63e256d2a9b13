"""The types of the fields of PEFT's configs; unchecked, a text in place of a flag would count as true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyhats.methods.libraries.peft import FieldType


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _are_integers(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, list) and all(_is_integer(item) for item in value))


FLAG = FieldType(_is_flag, "true or false")
INTEGER = FieldType(_is_integer, "a whole number")
NUMBER = FieldType(_is_number, "a number")
TEXT = FieldType(_is_text, "a text")
FLAG_OR_TEXT = FieldType(lambda value: _is_flag(value) or _is_text(value), "true, false or a text")
OBJECT = FieldType(lambda value: isinstance(value, dict), "an object")
TEXTS = FieldType(_are_texts, "a text or a list of texts")
INTEGERS = FieldType(_are_integers, "a whole number or a list of them")
LIST_OR_OBJECT = FieldType(lambda value: isinstance(value, (list, dict)), "a list or an object")
ANY = FieldType(lambda _: True, "anything")  # checked where it is read

# Of the types of prompt learning.
PROMPT_FIELDS: Mapping[str, FieldType] = {
    "num_virtual_tokens": INTEGER,
    "token_dim": INTEGER,
    "num_transformer_submodules": INTEGER,
    "num_attention_heads": INTEGER,
    "num_layers": INTEGER,
}
