"""Reads the files of an adapter folder: JSON and safetensors, nothing that could run code."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats import tensor_file
from manyhats.messages import first_error, short_repr

Model = TypeVar("Model", bound=BaseModel)
Sites = dict[str, dict[str, Tensor]]  # leaves, by site

_JSON_LIMIT = 4 << 20  # bytes
_JSON_DEPTH = 32
_ROWS = 4096  # compared at once
_JSON_VALUES = 250_000
_INT_LIMIT = 1 << 63
_NO_LIMIT = int(1e30)  # what transformers writes for the length of texts where there is none


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
    # Parsing keeps every other thread waiting, so what there is to parse is counted first.
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _JSON_VALUES:
        raise InvalidRequest(f"{path.name} has more than {_JSON_VALUES} values", param=path.name)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise InvalidRequest(f"the field {short_repr(twice)} stands in {path.name} twice", param=twice[:200])
        return value

    try:
        # Some editors put a byte order mark before the text.
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path.name} is not valid JSON: {error}", param=path.name) from None
    _check_values(value, path.name)
    return value


def _check_values(value: Any, file: str) -> None:
    """Refuses what Python's parser lets through and no answer of ours could repeat, and what is nested too deeply."""
    level: list[tuple[str, Any]] = [(file, value)]  # each with the field that it stands in
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


def text_or_none(value: Any) -> str | None:
    """A field that is only passed on: a text, or None for anything else."""
    return value if isinstance(value, str) else None


class UnclaimedTensors:
    """A file's tensors, each to be taken once; what is left at the end did not match anything."""

    def __init__(self, tensors: dict[str, Tensor], file: str, warnings: Sequence[str] = ()) -> None:
        self._tensors = dict(tensors)
        self._file = file
        self.warnings = tuple(warnings)  # about the names
        self.taken = 0

    def take(self, name: str) -> Tensor | None:
        """The tensor of that name, or None."""
        tensor = self._tensors.pop(name, None)
        self.taken += tensor is not None
        return tensor

    def pop(self, name: str) -> Tensor:
        """The tensor of a name that is among `names`."""
        self.taken += 1
        return self._tensors.pop(name)

    def names(self) -> list[str]:
        """What has not been taken."""
        return list(self._tensors)

    def get(self, name: str) -> Tensor | None:
        """The tensor of that name, which is not taken by this; None where it is not there, or was taken."""
        return self._tensors.get(name)

    def drop(self, name: str) -> None:
        """Leaves out a tensor that is known to have no meaning."""
        self._tensors.pop(name, None)

    def done(self) -> None:
        """Raises InvalidRequest where a tensor is left over."""
        if self._tensors:
            first = sorted(self._tensors)[0]
            raise InvalidRequest(
                f"{len(self._tensors)} tensors of {self._file} are not understood, the first is '{first}'",
                param=first,
            )


def take_leaves(remaining: UnclaimedTensors, place: Callable[[str], tuple[str, str] | None]) -> Sites:
    """Takes every tensor that `place` knows by its name: the leaves by site, and by the leaf's name.

    Raises what `place` raises, and InvalidRequest where two tensors have one place.
    """
    sites: Sites = {}
    for name in remaining.names():
        found = place(name)
        if found is None:
            continue
        site, leaf = found
        leaves = sites.setdefault(site, {})
        if leaf in leaves:
            raise InvalidRequest(f"two tensors are the {leaf} of '{site}'", param=name)
        leaves[leaf] = remaining.pop(name)
    return sites


def reject_fields(config: Mapping[str, Any], known: Container[str], of: str = "") -> None:
    """Raises AdapterMismatch for a field that is set and not understood; empty, false and zero are not set."""
    for name, value in config.items():
        if name not in known and value not in (None, False, 0, [], {}, ""):
            raise AdapterMismatch(
                f"the field '{name}'{of} is set to {short_repr(value)}, which is not supported", param=name
            )


def validate(model: type[Model], fields: Mapping[str, Any], where: str, unnamed: str) -> Model:
    """A pydantic model of a file's fields. Raises InvalidRequest for the first that is wrong.

    `where` stands before its name in the message; `unnamed` is told where the fault lies in no single one.
    """
    try:
        # By JSON's own types: a text that reads like true is none. As JSON, because there a list may stand for a tuple.
        return model.model_validate_json(json.dumps(dict(fields)), strict=True)
    except ValidationError as error:
        first = first_error(error)
        field = first.field or unnamed
        raise InvalidRequest(f"{where}: {field}: {first.message}", param=field) from None


def flag(config: Mapping[str, Any], field: str) -> bool:
    """A field that must be true or false; where it is missing or null it is false. Raises InvalidRequest."""
    value = config.get(field)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{field} must be true or false, not {short_repr(value)}", param=field)
    return bool(value)


def equal_weights(told: Tensor, own: Tensor) -> bool:
    """Whether two tensors are the same weights, as exactly as the coarser of their types tells.

    float16 and bfloat16 each hold digits that the other drops: of the two a step of either is no difference.
    """
    if told.shape != own.shape or not (told.is_floating_point() and own.is_floating_point()):
        return False
    types = {told.dtype, own.dtype}
    coarser = min(types, key=lambda dtype: (torch.finfo(dtype).bits, -torch.finfo(dtype).eps))
    mixed = types == {torch.float16, torch.bfloat16}
    own = own.detach()
    for start in range(0, len(told) if told.dim() else 1, _ROWS):  # a few rows at a time: a vocabulary's table is large
        left, right = (t[start : start + _ROWS] if t.dim() else t for t in (told, own))
        right = right.cpu()
        if mixed:
            if not torch.allclose(left.float(), right.float(), rtol=2**-8, atol=2**-24):
                return False
        elif not torch.equal(left.to(coarser), right.to(coarser)):
            return False
    return True
