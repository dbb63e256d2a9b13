"""TEI's form of a ranking: `{"query", "texts"}` to `/rerank`."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from pydantic import ConfigDict, StrictBool, StrictStr

from manyhats.api.body import parse
from manyhats.api.json_response import json_response
from manyhats.api.relevance import best_first, relevance
from manyhats.api.schemas import AnswerBody, Many
from manyhats.api.tei.bodies import TeiBody
from manyhats.errors import InvalidRequest


class RanksBody(TeiBody):
    """`raw_scores`: the head's own outputs. `return_text`: whether the texts are returned."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "a question", "texts": ["one", "two"]}]})

    query: StrictStr
    texts: Many[StrictStr]
    raw_scores: StrictBool | None = None
    return_text: StrictBool | None = None


class Rank(AnswerBody):
    """A text by its place in the request, and how well it answers the query; larger is better."""

    index: int
    text: str | None = None
    score: float


async def ranks(request: Request) -> Response:
    """The texts, the best one first. Raises ManyhatsError."""
    body = await parse(request, RanksBody)
    if not body.texts:
        raise InvalidRequest("'texts' is empty", param="texts")
    scores = await relevance(
        request,
        body.task,
        [body.query],
        body.texts,
        body.parameters(request),
        raw=bool(body.raw_scores),
        field="texts",
    )

    def answer() -> list[dict[str, Any]]:
        return [
            {"index": i, **({"text": body.texts[i]} if body.return_text else {}), "score": scores.values[i]}
            for i in best_first(scores.values)
        ]

    return await json_response(answer, scores.result.size)
