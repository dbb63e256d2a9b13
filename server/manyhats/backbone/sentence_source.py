"""A folder that sentence-transformers saved, and helpers for all of its files."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from manyhats.errors import AdapterMismatch, InvalidRequest

MODULES = "modules.json"
WEIGHTS = "model.safetensors"

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100  # the paths of classes are longer than other values in messages


@dataclass(frozen=True, slots=True)
class Source:
    """A folder and how its files are read. Both raise InvalidRequest for a damaged file."""

    folder: Path
    json: Callable[[Path], Any]
    tensors: Callable[[Path], dict[str, Tensor]]
    transformer: str = ""  # the subfolder with the model or the adapter, such as `0_Transformer`

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        return (self.folder / name).is_file()

    def object(self, name: str, *, needed: bool = False) -> dict[str, Any]:
        """A JSON object; empty where the file does not exist. Raises InvalidRequest where it is needed."""
        if not self.has(name):
            if needed:
                raise InvalidRequest(
                    f"{MODULES} leads to the file '{name}', which is not there; send the folder whole, as an archive",
                    param=name,
                )
            return {}
        value = self.json(self.folder / name)
        if not isinstance(value, dict):
            raise InvalidRequest(f"{name} must hold a JSON object, not {type(value).__name__}", param=name)
        return value


def reject_unknown(config: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raises AdapterMismatch for a field that is set and not `known`."""
    for key, value in config.items():
        if key not in known and value not in (None, False, 0, [], {}, ""):
            raise AdapterMismatch(f"'{key[:100]}' of {where} is {short_repr(value)}, which is not supported", param=key)


def short_repr(value: Any) -> str:
    """A value for a message, truncated."""
    return _REPR.repr(value)
