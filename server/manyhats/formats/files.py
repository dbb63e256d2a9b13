"""Reads the files of an adapter folder: JSON and safetensors, nothing that could run code."""

from __future__ import annotations

import errno
import json
import reprlib
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest

Model = TypeVar("Model", bound=BaseModel)
Sites = dict[str, dict[str, Tensor]]  # leaves, by site

_JSON_LIMIT = 4 << 20  # bytes
_JSON_DEPTH = 32
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8)
_WHOLE = (torch.int32, torch.int64)  # of tensors that say where others belong
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InvalidRequest for anything else."""
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
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        # Python's parser lets through what no answer of ours could repeat: NaN, infinity, half a surrogate pair.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path.name} is not valid JSON: {error}", param=path.name) from None
    if _deeper_than(value, _JSON_DEPTH):
        raise InvalidRequest(f"{path.name} is nested deeper than {_JSON_DEPTH} levels", param=path.name)
    return value


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        nested = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises InvalidRequest for a file that is damaged or holds a value that is not
    finite.
    """
    if not path.is_file():
        raise InvalidRequest(f"the adapter has no {path.name}", param=path.name)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                # a copy, because these are views of the mapped file, and a file that shrinks would end the process
                tensors[name] = file.get_tensor(name).clone()
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise InvalidRequest(f"{path.name} is damaged or not safetensors: {error}", param=path.name) from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES and not (tensor.dtype in _WHOLE and name.endswith(("indices", ":ids"))):
            told = str(tensor.dtype).removeprefix("torch.")
            raise InvalidRequest(f"'{name}' in {path.name} has the type {told}, which is not served", param=name)
        count = int((~torch.isfinite(tensor.float())).sum())  # a float64 may be too large for the backbone
        if count:
            raise InvalidRequest(f"'{name}' in {path.name} has {count} values that are NaN or infinite", param=name)
    return tensors


def is_full(error: Exception) -> bool:
    """Whether writing failed for want of room; safetensors has an error of its own, which tells it in words alone."""
    return getattr(error, "errno", None) in _FULL or "No space left" in str(error)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes readable JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes a safetensors file."""
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable for its owner alone


def looks_like_pickle(path: Path) -> bool:
    """Whether the content is a pickle or torch's zip of pickles, whatever the file is called."""
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors begins with its header's length, whose bytes may look like either, and then the header's brace
    return (start[:1] == b"\x80" or start[:4] == b"PK\x03\x04") and start[8:] != b"{"


def shown(value: Any) -> str:
    """A value of a file for a message, cut short."""
    return reprlib.repr(value)


def text_or_none(value: Any) -> str | None:
    """A field that is only passed on: a text, or None for anything else."""
    return value if isinstance(value, str) else None


def pickle_message(name: str) -> str:
    """What a caller is told about a pickle file."""
    return (
        f"'{name}' is a pickle file, which can run code and is never read here; "
        "turn it into safetensors on your own machine with `manyhats convert PATH OUT`"
    )


class Remaining:
    """A file's tensors, each to be taken once; what is left at the end did not match anything."""

    def __init__(self, tensors: dict[str, Tensor], file: str) -> None:
        self._tensors = dict(tensors)
        self._file = file
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


def take_leaves(remaining: Remaining, place: Callable[[str], tuple[str, str] | None]) -> Sites:
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


def refuse_fields(config: Mapping[str, Any], known: Container[str], of: str = "") -> None:
    """Raises AdapterMismatch for a field that is set and not understood; empty, false and zero are not set."""
    for name, value in config.items():
        if name not in known and value not in (None, False, 0, [], {}, ""):
            raise AdapterMismatch(f"the field '{name}'{of} is set to {shown(value)}, which is not served", param=name)


def validate(model: type[Model], fields: Mapping[str, Any], where: str, unnamed: str) -> Model:
    """A pydantic model of a file's fields. Raises InvalidRequest for the first that is wrong.

    `where` stands before its name in the message; `unnamed` is told where the fault lies in no single one.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or unnamed
        raise InvalidRequest(f"{where}: {field}: {first['msg']}", param=field) from None


def equal_weights(told: Tensor, own: Tensor) -> bool:
    """Whether a file's weights are the backbone's own, in the backbone's precision."""
    return told.shape == own.shape and torch.equal(told.to(own.dtype), own.detach().cpu())
