"""`/score` and `/v1/score`: pairs of texts."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AliasChoices, ConfigDict, Field, StrictBool, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.json_response import json_response
from manyhats.api.pooled import PooledBody, truncation
from manyhats.api.relevance import Scores, relevance
from manyhats.api.schemas import AnswerBody, Many
from manyhats.api.vllm.answers import USAGE, AnswerList, answer_list
from manyhats.errors import InvalidRequest

router = APIRouter(tags=["vllm"], dependencies=[Depends(require_predict)], route_class=DirectRoute)

_Texts = StrictStr | Many[StrictStr]


class ScoreBody(PooledBody):
    """`POST /score`. One text on the left is scored with each on the right; else there are as many on both sides.

    vLLM has other names for both: `queries` and `documents` or `items`, `data_1` and `data_2`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "relevance", "text_1": "a question", "text_2": ["a text", "another"]}]
        }
    )

    text_1: _Texts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"))
    text_2: _Texts = Field(validation_alias=AliasChoices("text_2", "documents", "items", "data_2"))
    use_activation: StrictBool | None = None


class ScoreItem(AnswerBody):
    """One pair's score; larger is better."""

    index: int
    object: Literal["score"]
    score: float


class ScoreList(AnswerList):
    """The answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "score-292fa72e96d9450ab7fc39019eff37be",
                    "object": "list",
                    "created": 1764230400,
                    "model": "relevance",
                    "data": [{"index": 0, "object": "score", "score": 0.9}],
                    "usage": USAGE,
                }
            ]
        }
    )

    data: list[ScoreItem]


@router.post("/score", openapi_extra=documented(ScoreBody), response_model=ScoreList)
@router.post("/v1/score", openapi_extra=documented(ScoreBody), response_model=ScoreList)
async def score(request: Request) -> Response:
    """Scores of pairs, by a task of kind `rerank`, or the cosine of two vectors by one of kind `embed`."""
    body = await parse(request, ScoreBody)
    body.check()
    left, right = _listed(body.text_1), _listed(body.text_2)
    if len(left) not in (1, len(right)) or not right:
        raise InvalidRequest(
            f"there are {len(left)} texts to compare with {len(right)}; give one, or as many on both sides",
            param="text_1",
        )
    raw = body.use_activation is False
    scores = await relevance(request, body.model, left, right, truncation(body, request), raw=raw, field="text_2")
    return await json_response(lambda: _answer(body, scores), scores.result.size)


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _answer(body: ScoreBody, scores: Scores) -> dict[str, Any]:
    data = [{"index": i, "object": "score", "score": value} for i, value in enumerate(scores.values)]
    return answer_list("score", body.model, data, scores.result)
