"""`/invocations`, SageMaker's one route: a request is answered as its form is on the route that it is of.

`/ping` is among the probes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from manyhats.api import predict
from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.huggingface import routes as huggingface
from manyhats.api.huggingface.answers import HubAnswer
from manyhats.api.openai import embeddings, texts
from manyhats.api.openai.embeddings import EmbeddingList
from manyhats.api.pooled import LABELS
from manyhats.api.relevance import kind_of
from manyhats.api.state import runtime_of
from manyhats.api.tei.ranks import Rank
from manyhats.api.vllm import classify, rerank, score
from manyhats.api.vllm.classify import ClassificationList
from manyhats.api.vllm.rerank import RankedList
from manyhats.api.vllm.score import ScoreList
from manyhats.errors import InvalidRequest

router = APIRouter(tags=["sagemaker"], dependencies=[Depends(require_predict)], route_class=DirectRoute)

Handler = Callable[..., Awaitable[Response]]


class InvocationForm(BaseModel):
    """`POST /invocations`: the body of one of the other routes.

    With `messages` that of a chat, with `prompt` of a completion, with `input` of embeddings or, for a task of kind
    `classify`, of labels; with `query` of a ranking, with `text_1` or `queries` of scores; with `requests` or `tasks`
    of many predictions; with `inputs` that of Hugging Face's clients.
    """

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"model": "base", "input": ["a text"]},
                {"inputs": "a text", "parameters": {"adapter_id": "spam"}},
                {"model": "base", "prompt": "Once", "max_tokens": 16},
            ]
        },
    )

    model: Any = None


# By the field that only their bodies have, in this order.
_ROUTES: tuple[tuple[str, Handler], ...] = (
    ("messages", texts.chat),
    ("prompt", texts.completions),
    ("query", rerank.rerank),
    ("text_1", score.score),
    ("queries", score.score),
    ("data_1", score.score),
    ("requests", predict.predict_many),
    ("tasks", predict.predict_many),
    ("input", embeddings.embeddings),
    ("inputs", huggingface.root),
)


_Answer = EmbeddingList | ClassificationList | RankedList | list[Rank] | ScoreList | HubAnswer | dict[str, Any]


@router.post("/invocations", openapi_extra=documented(InvocationForm), response_model=_Answer)
async def invocations(request: Request) -> Response:
    """Answers the body of another route, by its form."""
    body = await parse(request, InvocationForm)
    fields = body.model_extra or {}
    handler = next((handler for name, handler in _ROUTES if name in fields), None)
    if handler is None:
        raise InvalidRequest(f"the body has none of the fields {', '.join(name for name, _ in _ROUTES)}", param="body")
    if handler is embeddings.embeddings and _labels(request, body.model):
        handler = classify.classify
    return await handler(request=request)


def _labels(request: Request, model: Any) -> bool:
    """Whether a task gives labels. Raises NotFound."""
    return isinstance(model, str) and kind_of(runtime_of(request), model).name in LABELS
