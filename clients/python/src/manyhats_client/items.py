"""One input of `predict_many` on its way, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from manyhats_client.answers import Failure, Prediction, Result
from manyhats_client.errors import ManyhatsError
from manyhats_client.inputs import OneInput
from manyhats_client.models import InputWarning
from manyhats_client.operations import exception_of
from manyhats_client.tables import output_rows


class Item:
    """One input, and its output or why there is none.

    `index`: its place among the inputs. `answer`: the whole answer, with version and timing, or None. `error`: the
    exception that asking it alone would have raised, or None.
    """

    __slots__ = ("answer", "error", "index", "input")

    def __init__(self, index: int, input: OneInput) -> None:
        self.index = index
        self.input = input
        self.answer: Prediction | None = None
        self.error: ManyhatsError | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an output."""
        return self.answer is not None

    @property
    def output(self) -> Any:
        """The output, of the model that its kind has. Raises `error` where there is none."""
        if self.answer is None:
            raise self.error or RuntimeError("the input is not asked yet")
        return self.answer.outputs[0]

    @property
    def warnings(self) -> list[InputWarning]:
        """Such as that the input was truncated."""
        return [] if self.answer is None else self.answer.warnings

    def take(self, result: Result) -> None:
        """Keeps what the server answered."""
        if isinstance(result, Failure):
            self.fail(exception_of(result))
        else:
            self.answer, self.error = result, None

    def fail(self, error: ManyhatsError) -> None:
        """Keeps why there is no output."""
        self.answer, self.error = None, error

    def table_rows(self) -> Iterator[dict[str, Any]]:
        """Its rows in a table."""
        text = {"text": self.input} if isinstance(self.input, str) else dict(self.input)
        about: Mapping[str, Any] = {"index": self.index} | {f"input.{name}": value for name, value in text.items()}
        if self.answer is None:
            yield {**about, "error": str(self.error)}
            return
        for row in output_rows(self.output):
            yield {**about, "version": self.answer.version, **row}

    def __repr__(self) -> str:
        what = f"output={self.output!r}" if self.answer is not None else f"error={self.error!r}"
        return f"Item(index={self.index}, {what})"
