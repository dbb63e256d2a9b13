"""`/rerank`, `/v1/rerank` and `/v2/rerank`, as vLLM, Jina and Cohere have them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.json_response import json_response
from manyhats.api.pooled import PooledBody, Usage, truncation, usage_of, with_warnings
from manyhats.api.relevance import Scores, best_first, relevance
from manyhats.api.schemas import AnswerBody, Many, WarningBody
from manyhats.api.shaped_route import TYPED_ERRORS, in_shape
from manyhats.api.tei.errors import error_body
from manyhats.api.tei.ranks import Rank, RanksBody, ranks
from manyhats.api.vllm.answers import answer_id
from manyhats.errors import InvalidRequest

router = APIRouter(tags=["vllm"], dependencies=[Depends(require_predict)], route_class=DirectRoute)


class Document(BaseModel):
    """A document's text."""

    text: StrictStr


class RerankForm(BaseModel):
    """Whose form a request has."""

    model_config = ConfigDict(extra="ignore")

    texts: Any = None


class RerankBody(PooledBody):
    """`POST /rerank`. `top_n`: the best few alone; 0: all. `return_documents`: false leaves their texts out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "relevance", "query": "a question", "documents": ["a text", "another"]}]
        }
    )

    query: StrictStr
    documents: Many[StrictStr | Document]
    top_n: Annotated[StrictInt, Field(ge=0)] | None = None
    return_documents: StrictBool | None = None
    use_activation: StrictBool | None = None


class RankedDocument(AnswerBody):
    """A document by its place in the request, and how well it answers the query; larger is better."""

    index: int
    document: Document | None = None
    relevance_score: float


class RankedList(AnswerBody):
    """The documents, the best one first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "rerank-292fa72e96d9450ab7fc39019eff37be",
                    "model": "relevance",
                    "usage": {"prompt_tokens": 9, "total_tokens": 9},
                    "results": [{"index": 1, "document": {"text": "another"}, "relevance_score": 0.9}],
                }
            ]
        }
    )

    id: str
    model: str
    usage: Usage
    results: list[RankedDocument]
    warnings: list[WarningBody] | None = None


# TEI's form has errors of its own.
_OF_EACH: dict[str, Any] = {
    "openapi_extra": documented(RerankBody, RanksBody),
    "response_model": RankedList | list[Rank],
    "responses": TYPED_ERRORS,
}


@router.post("/rerank", **_OF_EACH)
@router.post("/v1/rerank", **_OF_EACH)
@router.post("/v2/rerank", **_OF_EACH)
async def rerank(request: Request) -> Response:
    """Documents in the order in which they answer a query, by a task of kind `rerank` or, by cosine, `embed`.

    TEI's form, with `texts` in the place of `documents`, is answered as TEI does.
    """
    if "texts" in (await parse(request, RerankForm)).model_fields_set:
        return await in_shape(error_body, ranks(request))
    body = await parse(request, RerankBody)
    body.check()
    documents = [one if isinstance(one, str) else one.text for one in body.documents]
    if not documents:
        raise InvalidRequest("'documents' is empty", param="documents")
    raw = body.use_activation is False
    scores = await relevance(request, body.model, [body.query], documents, truncation(body, request), raw=raw)
    return await json_response(lambda: _answer(body, documents, scores), scores.result.size)


def _answer(body: RerankBody, documents: list[str], scores: Scores) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for i in best_first(scores.values)[: body.top_n or None]:
        document = {} if body.return_documents is False else {"document": {"text": documents[i]}}
        results.append({"index": i, **document, "relevance_score": scores.values[i]})
    answer = {
        "id": answer_id("rerank", scores.result),
        "model": body.model or scores.result.version.task,
        "usage": usage_of(scores.result),
        "results": results,
    }
    return with_warnings(answer, scores.result)
