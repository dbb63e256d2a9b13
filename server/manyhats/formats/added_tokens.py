"""The tokens that an adapter's tokenizer files add to a vocabulary, and whether the backbone's tokenizer has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from manyhats.backbone import Tokenizer
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.files import read_json
from manyhats.messages import short_repr

TOKENIZER = "tokenizer.json"
ADDED = "added_tokens.json"
CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
# How much of tokenizer.json is read: the part before its vocabulary, which may be many megabytes.
_HEAD_LIMIT = 2 << 20  # bytes
_MAX_TOKENS = 100_000  # tokens
_MAX_LISTED = 3
# The names under which a tokenizer's config and special_tokens_map.json have special tokens.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


class _Added(NamedTuple):
    text: str
    number: int | None  # None where a file has only the token's name
    file: str


def check_added_tokens(
    folder: Path, config: Mapping[str, Any], special: Mapping[str, Any], tokenizer: Tokenizer
) -> list[str]:
    """Raises AdapterMismatch for a token that the backbone's tokenizer lacks, splits, or has under another number.

    `config`, `special`: what tokenizer_config.json and special_tokens_map.json hold. Returns warnings: a
    token used only for padding is ignored, as texts are not padded.
    """
    pad = token_text(config.get("pad_token", special.get("pad_token")))
    meant = [name for name in NAMED if name != "pad_token"]
    others = {token_text(source.get(name)) for source in (config, special) for name in meant}
    found: dict[tuple[str, int | None], _Added] = {}
    for added in _all_added(folder, config, special):
        found.setdefault((added.text, added.number), added)
        if len(found) > _MAX_TOKENS:
            raise InvalidRequest(f"{added.file} names more than {_MAX_TOKENS} tokens", param=added.file)
    whole = tokenizer.added_tokens()
    wrong: list[tuple[_Added, str]] = []
    warnings: list[str] = []
    for added in found.values():
        own = tokenizer.token_id(added.text)
        if own is None and added.text == pad and added.text not in others:
            if not warnings:
                warnings.append(
                    f"the pad token {short_repr(added.text)} of {added.file} is left out: texts are not padded"
                )
        elif own is None:
            wrong.append((added, "which the backbone's tokenizer does not have"))
        elif added.number is not None and own != added.number:
            wrong.append((added, f"which is {own} in the backbone's tokenizer"))
        elif added.text not in whole and not tokenizer.is_single_token(added.text):
            wrong.append((added, "which the backbone's tokenizer does not read as one token"))
    if wrong:
        first, why = wrong[0]
        number = "" if first.number is None else f" ({first.number})"
        names = ", ".join(short_repr(added.text) for added, _ in wrong[1 : 1 + _MAX_LISTED])
        rest = f"; also {names}{' and more' if len(wrong) > 1 + _MAX_LISTED else ''}" if names else ""
        raise AdapterMismatch(
            f"{first.file} adds the token {short_repr(first.text)}{number}, {why}{rest}; added tokens are not "
            "supported: "
            "train with tokens of the backbone's own, or leave the file out where the adapter does not use it",
            param=first.file,
        )
    return warnings


def token_text(value: Any) -> str | None:
    """The text of a special token, which is a text or an object with `content`. None for anything else."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _all_added(folder: Path, config: Mapping[str, Any], special: Mapping[str, Any]) -> Iterator[_Added]:
    if (folder / ADDED).is_file():
        for text, number in read_json(folder / ADDED).items():
            yield _added(text, number, ADDED)
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise InvalidRequest(f"added_tokens_decoder of {CONFIG} must be an object", param="added_tokens_decoder")
    for number, token in decoder.items():
        place = int(number) if number.isdecimal() and len(number) < 10 else number
        yield _added(token_text(token), place, CONFIG)
    for token in _added_before_model(folder / TOKENIZER):
        yield _added(token.get("content"), token.get("id"), TOKENIZER)
    for source, file in ((config, CONFIG), (special, SPECIAL)):
        for name in NAMED:
            if (named := token_text(source.get(name))) is not None:
                yield _Added(named, None, file)
        for name in _LISTS:
            given = source.get(name)
            for token in given.values() if isinstance(given, dict) else given if isinstance(given, list) else ():
                if (listed := token_text(token)) is not None:
                    yield _Added(listed, None, file)


def _added(text: Any, number: Any, file: str) -> _Added:
    if not isinstance(text, str) or not text or type(number) is not int:
        raise InvalidRequest(f"{file} adds a token {short_repr(text)} with the number {short_repr(number)}", param=file)
    return _Added(text, number, file)


def _added_before_model(path: Path) -> list[dict[str, Any]]:
    """`added_tokens` of a tokenizer.json, of which only the part before the vocabulary is parsed.

    Raises InvalidRequest where it is damaged, or that part is too long.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        head = file.read(_HEAD_LIMIT)
    try:
        value = _field_before_model(head.decode("utf-8", errors="ignore"), "added_tokens")  # may end inside a character
    except (ValueError, IndexError, RecursionError):
        raise InvalidRequest(
            f"{TOKENIZER} is damaged, or has more than {_HEAD_LIMIT} bytes before its vocabulary", param=TOKENIZER
        ) from None
    if value is None and len(head) < _HEAD_LIMIT:
        value = read_json(path).get("added_tokens", [])
    elif value is None:
        raise InvalidRequest(f"{TOKENIZER} has no added_tokens before its model, where they belong", param=TOKENIZER)
    if not isinstance(value, list) or not all(isinstance(token, dict) for token in value):
        raise InvalidRequest(f"added_tokens of {TOKENIZER} must be a list of objects", param=TOKENIZER)
    return value


def _field_before_model(text: str, wanted: str) -> Any:
    """A field of a JSON object that may be truncated; None where `model` comes before it. Raises ValueError."""
    decoder = json.JSONDecoder()
    place = _after(text, 0, "{")
    while text[place] != "}":
        name, place = decoder.raw_decode(text, place)
        if name == "model":
            break
        value, place = decoder.raw_decode(text, _after(text, place, ":"))
        if name == wanted:
            return value
        place = _after(text, place, "")
        place = _after(text, place, ",") if text[place] == "," else place
    return None


def _after(text: str, place: int, mark: str) -> int:
    """The index after white space, a mark, and white space again. Raises ValueError where the mark is missing."""
    while text[place] in " \t\r\n":
        place += 1
    if not text.startswith(mark, place):
        raise ValueError(mark)
    place += len(mark)
    while mark and text[place] in " \t\r\n":
        place += 1
    return place
