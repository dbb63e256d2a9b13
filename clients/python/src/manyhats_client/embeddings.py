"""Vectors, as they came: little-endian float32."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from pydantic import Field

from manyhats_client.libraries import numpy, pandas
from manyhats_client.models import InputWarning, Model, Reply

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class _Vector(Model):
    embedding: str


class _Usage(Model):
    prompt_tokens: int = 0


class EmbeddingPage(Reply):
    """The server's answer to one request: vectors in base64."""

    data: list[_Vector]
    usage: _Usage = Field(default_factory=_Usage)
    warnings: list[InputWarning] = Field(default_factory=list)


class Embeddings(Sequence[list[float]]):
    """The vectors of `embed`, in the order of its inputs; a sequence of lists of numbers, or one array by `numpy()`.

    `tokens`: how many were read. `warnings`: such as that an input was truncated. `request_ids`: of its requests.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.tokens = 0
        self.warnings: list[InputWarning] = []
        self.request_ids: list[str] = []
        self._vectors: list[bytes] = []

    def add(self, page: EmbeddingPage) -> None:
        """Appends what one request gave."""
        first = len(self._vectors)
        self._vectors += [b64decode(one.embedding) for one in page.data]
        self.tokens += page.usage.prompt_tokens
        for warning in page.warnings:
            index = None if warning.input is None else warning.input + first
            self.warnings.append(warning.model_copy(update={"input": index}))
        if page.request_id is not None:
            self.request_ids.append(page.request_id)

    @property
    def dimension(self) -> int:
        """Numbers of a vector; 0 where there is none."""
        return len(self._vectors[0]) // 4 if self._vectors else 0

    def numpy(self) -> NDArray[np.float32]:
        """The vectors, (inputs, dimension) in float32. Raises ImportError without numpy."""
        library = numpy("Embeddings.numpy()")
        found: NDArray[np.float32] = library.frombuffer(b"".join(self._vectors), dtype="<f4")
        return found.reshape(len(self._vectors), self.dimension).astype("float32", copy=True)

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row for each input and a column for each number. Raises ImportError without pandas."""
        table: pd.DataFrame = pandas("Embeddings.to_pandas()").DataFrame(self.numpy())
        return table

    def __len__(self) -> int:
        return len(self._vectors)

    @overload
    def __getitem__(self, index: int) -> list[float]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[float]]: ...

    def __getitem__(self, index: int | slice) -> list[float] | list[list[float]]:
        if isinstance(index, slice):
            return [_numbers(vector) for vector in self._vectors[index]]
        return _numbers(self._vectors[index])

    def __iter__(self) -> Iterator[list[float]]:
        return map(_numbers, self._vectors)

    def __repr__(self) -> str:
        return f"Embeddings(task={self.task!r}, inputs={len(self)}, dimension={self.dimension})"


def _numbers(vector: bytes) -> list[float]:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
