"""Answers as pandas' tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from manyhats_client.libraries import pandas

if TYPE_CHECKING:
    import pandas as pd


def to_pandas(answers: Iterable[Any]) -> pd.DataFrame:
    """A table of what `predict_many`, `predict_batch`, `predict_tasks` or `tasks` gives.

    An output has a row, one of kind `tokens` one for each token; nested fields have names like `scores.spam`. What
    failed has its message in the column `error`. Raises ImportError without pandas.
    """
    library = pandas("to_pandas")
    table: pd.DataFrame = library.json_normalize([row for answer in answers for row in _rows(answer)])
    return table


def _rows(answer: Any) -> Iterator[dict[str, Any]]:
    if hasattr(answer, "table_rows"):  # an Item
        yield from answer.table_rows()
    elif hasattr(answer, "outputs"):
        for index, output in enumerate(answer.outputs):
            about = {"task": answer.task, "version": answer.version, "input": index}
            yield from (about | row for row in output_rows(output))
    elif isinstance(getattr(answer, "error", None), BaseModel):  # a Failure
        yield {"task": answer.task, "error": answer.error.message}
    else:
        yield answer.model_dump()


def output_rows(output: Any) -> Iterator[dict[str, Any]]:
    """The rows of one output."""
    if not isinstance(output, BaseModel):
        yield output if isinstance(output, dict) else {"output": output}
    elif hasattr(output, "tokens") and hasattr(output, "entities"):
        yield from (token.model_dump() for token in output.tokens)
    else:
        yield output.model_dump(exclude_none=True)
