"""Reads the files of an adapter folder: JSON and safetensors, nothing that could run code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from manyhats.errors import InvalidRequest
from manyhats.formats import tensor_file
from manyhats.messages import repeated_field, short_repr

_JSON_LIMIT = 4 << 20  # bytes
_JSON_DEPTH = 32
_JSON_VALUES = 250_000
_INT_LIMIT = 1 << 63
_NO_LIMIT = int(1e30)  # what transformers writes for the maximum length where there is none


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest for anything else, naming the field where a value is at fault."""
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path.name} must hold a JSON object, not {type(value).__name__}", param=path.name)
    return value


def read_json_value(path: Path) -> Any:
    """What a JSON file holds, of any type. Raises InvalidRequest for a file that is damaged or too large."""
    if not path.is_file():
        raise InvalidRequest(f"the adapter has no file {path.name}", param=path.name)
    if path.stat().st_size > _JSON_LIMIT:
        raise InvalidRequest(f"{path.name} is larger than {_JSON_LIMIT} bytes", param=path.name)
    data = path.read_bytes()
    # Parsing holds the interpreter's lock, so the values are counted first.
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _JSON_VALUES:
        raise InvalidRequest(f"{path.name} has more than {_JSON_VALUES} values", param=path.name)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = repeated_field(pairs)
        if twice is not None:
            raise InvalidRequest(f"the field {short_repr(twice)} stands in {path.name} twice", param=twice[:200])
        return dict(pairs)

    try:
        # Some editors write a byte order mark first.
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path.name} is not valid JSON: {error}", param=path.name) from None
    _check_values(value, path.name)
    return value


def _check_values(value: Any, file: str) -> None:
    """Raises InvalidRequest for values that Python's parser accepts and JSON does not have, and for deep nesting."""
    level: list[tuple[str, Any]] = [(file, value)]  # each with its field
    for _ in range(_JSON_DEPTH + 1):
        nested: list[tuple[str, Any]] = []
        for field, item in level:
            if isinstance(item, dict):
                nested += item.items()
            elif isinstance(item, list):
                nested += ((field, child) for child in item)
            elif isinstance(item, str):
                _check_text(item, field, file)
            elif (isinstance(item, float) and not math.isfinite(item)) or (
                type(item) is int and abs(item) > _INT_LIMIT and item != _NO_LIMIT
            ):
                raise InvalidRequest(
                    f"{file} is not valid: {short_repr(field)} is {short_repr(item)}", param=field[:200]
                )
            _check_text(field, field, file)
        if not nested:
            return
        level = nested
    raise InvalidRequest(f"{file} is nested deeper than {_JSON_DEPTH} levels", param=file)


def _check_text(text: str, field: str, file: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        raise InvalidRequest(f"{file} is not valid JSON: {short_repr(field)} is no text", param=file) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises InvalidRequest for a file that is damaged or holds a value that is not finite, TooLarge for one that holds
    more tensors than any adapter.
    """
    if not path.is_file():
        raise InvalidRequest(f"the adapter has no {path.name}", param=path.name)
    return tensor_file.load(path)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file."""
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable for its owner alone
