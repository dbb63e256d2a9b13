"""What vLLM's answers have in common."""

from __future__ import annotations

import time
from typing import Any

from manyhats.api.pooled import Usage, usage_of, with_warnings
from manyhats.api.schemas import AnswerBody, WarningBody
from manyhats.serving.inference import InferenceResponse


class ListUsage(Usage):
    """With the tokens that were generated: none."""

    completion_tokens: int


class AnswerList(AnswerBody):
    """A list, and what it was made with."""

    id: str
    object: str
    created: int
    model: str
    usage: ListUsage
    warnings: list[WarningBody] | None = None


USAGE: dict[str, Any] = {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}  # of examples


def answer_list(
    prefix: str, model: str | None, data: list[dict[str, Any]], result: InferenceResponse
) -> dict[str, Any]:
    """An answer with `data`. `model`: as the request names it."""
    answer = {
        "id": answer_id(prefix, result),
        "object": "list",
        "created": int(time.time()),
        "model": model or result.version.task,
        "data": data,
        "usage": usage_of(result) | {"completion_tokens": 0},
    }
    return with_warnings(answer, result)


def answer_id(prefix: str, result: InferenceResponse) -> str:
    """The name of an answer."""
    return f"{prefix}-{result.id.partition('-')[2]}"
