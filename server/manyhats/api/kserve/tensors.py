"""Tensors of the open inference protocol: in JSON, or as bytes behind it (Triton's binary extension)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr

from manyhats.api.json_response import json_bytes
from manyhats.api.schemas import Many
from manyhats.errors import InvalidRequest

_LENGTH = struct.Struct("<I")
_MAX_DIMENSIONS = 8
# Datatypes, and how their elements stand in bytes.
_NUMBERS = {"FP32": "<f4", "INT64": "<i8", "BOOL": "?"}


class InputTensor(BaseModel):
    """A tensor of texts. `parameters.binary_data_size`: how many bytes behind the JSON are its data."""

    model_config = ConfigDict(extra="allow")

    name: StrictStr
    shape: Many[StrictInt]
    datatype: StrictStr
    parameters: dict[str, Any] | None = None
    data: Many[Any] | None = None

    @property
    def binary_size(self) -> int | None:
        """How many bytes behind the JSON it has. Raises InvalidRequest."""
        size = (self.parameters or {}).get("binary_data_size")
        if size is None or (isinstance(size, int) and not isinstance(size, bool) and size >= 0):
            return size
        raise InvalidRequest(f"the input '{self.name[:100]}' has a binary_data_size that is no size", param=self.name)

    def texts(self, data: bytes | None, most: int) -> list[str]:
        """Its texts. `data`: its bytes, where they are behind the JSON; `most`: elements that it may have.

        Raises InvalidRequest for another type, and where data and shape do not belong together.
        """
        if self.datatype != "BYTES":
            raise InvalidRequest(
                f"the input '{self.name[:100]}' is {self.datatype[:20]}; texts are BYTES", param=self.name
            )
        if len(self.shape) > _MAX_DIMENSIONS or any(size < 0 for size in self.shape):
            raise InvalidRequest(f"the input '{self.name[:100]}' has no shape", param=self.name)
        count = math.prod(self.shape)
        if data is not None:
            found = list(_split(data, self.name, min(count, most) + 1))
        else:
            found = list(_flat(self.data or [], self.name))
        if len(found) != count and len(found) <= most:
            raise InvalidRequest(
                f"the input '{self.name[:100]}' has {len(found)} texts, but its shape says {count}", param=self.name
            )
        return found


def _split(data: bytes, name: str, most: int) -> Iterator[str]:
    """Texts, each behind its length in four bytes."""
    position = 0
    while position < len(data) and most:
        most -= 1
        end = position + _LENGTH.size
        if end > len(data):
            raise InvalidRequest(f"the input '{name[:100]}' ends within a length", param=name)
        (length,) = _LENGTH.unpack_from(data, position)
        position = end + length
        if position > len(data):
            raise InvalidRequest(f"the input '{name[:100]}' ends within a text", param=name)
        try:
            yield data[end:position].decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"the input '{name[:100]}' has a text that is not UTF-8", param=name) from None


def _flat(data: Sequence[Any], name: str, depth: int = 0) -> Iterator[str]:
    for one in data:
        if isinstance(one, str):
            yield one
        elif isinstance(one, list) and depth < _MAX_DIMENSIONS:
            yield from _flat(one, name, depth + 1)
        else:
            raise InvalidRequest(f"the input '{name[:100]}' has an element that is no text", param=name)


class OutputTensor(NamedTuple):
    """One field of the answers as a tensor. `labels`: what its columns are."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]  # in one row
    labels: list[str] | None = None

    def described(self) -> dict[str, Any]:
        """It without its data."""
        head: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": self.shape}
        return head if self.labels is None else head | {"parameters": {"labels": ",".join(self.labels)}}

    def as_bytes(self) -> bytes:
        """Its data as they stand behind the JSON."""
        if self.datatype != "BYTES":
            return np.asarray(self.data, dtype=_NUMBERS[self.datatype]).tobytes()
        encoded = [str(one).encode() for one in self.data]
        return b"".join(_LENGTH.pack(len(one)) + one for one in encoded)


def output_tensors(outputs: Sequence[dict[str, Any]]) -> list[OutputTensor]:
    """The fields of the answers, each as a tensor: of texts, of numbers, of vectors of one length, or else of JSON."""
    return [_tensor(name, [output[name] for output in outputs]) for name in outputs[0]]


def _tensor(name: str, values: list[Any]) -> OutputTensor:
    count = len(values)
    for kind, datatype in ((bool, "BOOL"), (str, "BYTES"), (int, "INT64"), (float, "FP32")):
        if all(type(value) is kind for value in values):
            return OutputTensor(name, datatype, [count], values)
    if all(isinstance(value, dict) and value and all(type(v) is float for v in value.values()) for value in values):
        labels = list(values[0])
        if all(list(value) == labels for value in values):
            return OutputTensor(name, "FP32", [count, len(labels)], [v for one in values for v in one.values()], labels)
    if all(isinstance(value, (list, np.ndarray)) for value in values):
        try:
            array = np.asarray(values)
        except ValueError:  # vectors of several lengths
            pass
        else:
            if array.dtype.kind == "f" and array.ndim > 1 and array.size:
                return OutputTensor(name, "FP32", list(array.shape), array.ravel().tolist())
    return OutputTensor(name, "BYTES", [count], [json_bytes(value).decode() for value in values])
