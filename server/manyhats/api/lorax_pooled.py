"""What LoRAX's clients call for what one pass answers: `/embed`, `/classify` and `/classify_batch`.

LoRAX's client cannot name an adapter there: its base URL may end in `/models/{task}`, and `parameters.adapter_id` is
followed, too. `/embed` and `/classify` are shared with TEI and vLLM, whose requests look otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, RootModel, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.json_response import json_response
from manyhats.api.lorax import Parameters, check_adapter, error_body
from manyhats.api.pooled import TOKENS, VECTORS, predict, vectors
from manyhats.api.schemas import AnswerBody, Many
from manyhats.api.shaped_route import TYPED_ERRORS, in_shape, shaped_route
from manyhats.backbone import Text
from manyhats.errors import InvalidRequest

router = APIRouter(
    tags=["lorax"],
    dependencies=[Depends(require_predict)],
    route_class=shaped_route(error_body),
    responses=TYPED_ERRORS,
)


class TextBody(BaseModel):
    """`POST /embed` and `/classify` as LoRAX's client sends them."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"inputs": "a text", "parameters": None}]})

    inputs: StrictStr
    parameters: Parameters | None = None


class ClassifyBatchBody(TextBody):
    """`POST /classify_batch`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["a text", "another"], "parameters": None}]})

    inputs: Many[StrictStr]  # type: ignore[assignment]


class Entity(AnswerBody):
    """One entity. `index`: its first token's number among those of the text, from 1."""

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


# Of examples.
_ENTITIES: list[Any] = [{"entity": "PER", "score": 0.99, "index": 1, "word": "Ada", "start": 0, "end": 3}]


class Entities(RootModel[list[Entity]]):
    """The entities of a text."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ENTITIES]})


class EntitiesOfTexts(RootModel[list[list[Entity]]]):
    """The entities of each text."""

    model_config = ConfigDict(json_schema_extra={"examples": [[_ENTITIES]]})


class LoraxVector(AnswerBody):
    """A text's vector."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"embeddings": [0.6, 0.0, 0.8]}]})

    embeddings: list[float]


def is_lorax(fields: Collection[str] | None) -> bool:
    """Whether a body is one of LoRAX's client, by its fields that other clients do not send."""
    return fields is not None and ("parameters" in fields or "stream" in fields)


@router.post("/classify_batch", openapi_extra=documented(ClassifyBatchBody), response_model=EntitiesOfTexts)
async def classify_batch(request: Request) -> Response:
    """Entities of texts, by a task of kind `tokens`."""
    return await _batch(request)


@router.post(
    "/models/{task}/classify_batch", openapi_extra=documented(ClassifyBatchBody), response_model=EntitiesOfTexts
)
async def classify_batch_of(task: str, request: Request) -> Response:
    """Entities of texts, by the task of kind `tokens` that the path names."""
    return await _batch(request, task)


@router.post("/models/{task}/classify", openapi_extra=documented(TextBody), response_model=Entities)
async def classify_of(task: str, request: Request) -> Response:
    """Entities of a text, by the task of kind `tokens` that the path names."""
    return await answer_entities(request, task)


@router.post("/models/{task}/embed", openapi_extra=documented(TextBody), response_model=LoraxVector)
async def embed_of(task: str, request: Request) -> Response:
    """A text's vector, by the task of kind `embed` that the path names."""
    return await answer_embedding(request, task)


async def answer_embedding(request: Request, task: str | None = None) -> Response:
    """LoRAX's answer to `/embed`: the one vector, as the task has it."""
    return await in_shape(error_body, _embedding(request, task))


async def _embedding(request: Request, task: str | None) -> Response:
    body = await parse(request, TextBody)
    result = await predict(request, _task(body, task), [Text(body.inputs)], {}, kinds=VECTORS, field="inputs")
    return await json_response(lambda: {"embeddings": vectors(result)[0]}, result.size)


async def answer_entities(request: Request, task: str | None = None) -> Response:
    """LoRAX's answer to `/classify`: the entities of a text."""
    return await in_shape(error_body, _entities(request, task))


async def _entities(request: Request, task: str | None) -> Response:
    body = await parse(request, TextBody)
    result = await predict(request, _task(body, task), [Text(body.inputs)], {}, kinds=TOKENS, field="inputs")
    return await json_response(lambda: entities_of(result.outputs[0]), result.size)


async def _batch(request: Request, task: str | None = None) -> Response:
    body = await parse(request, ClassifyBatchBody)
    texts = [Text(text) for text in body.inputs]
    result = await predict(request, _task(body, task), texts, {}, kinds=TOKENS, field="inputs")
    return await json_response(lambda: [entities_of(output) for output in result.outputs], result.size)


def _task(body: TextBody, task: str | None) -> str | None:
    """The task that the path or the parameters name. Raises InvalidRequest for two of them, and for a merged one."""
    given = body.parameters or Parameters()
    check_adapter(given)
    if given.merged_adapters is not None:
        raise InvalidRequest("'merged_adapters' is not supported here; leave it out", param="merged_adapters")
    if task is not None and given.adapter_id not in (None, task):
        raise InvalidRequest("the path and 'adapter_id' name two tasks; leave one out", param="adapter_id")
    return given.adapter_id if task is None else task


def entities_of(output: dict[str, Any]) -> list[dict[str, Any]]:
    """The entities of one text, as transformers' pipeline numbers and names them where it joins no tokens."""
    return [
        {
            "entity": entity["entity_group"],
            "score": entity["score"],
            "index": _first_token(output, entity) + 1,
            "word": entity["word"],
            "start": entity["start"],
            "end": entity["end"],
        }
        for entity in output["entities"]
    ]


def _first_token(output: dict[str, Any], entity: dict[str, Any]) -> int:
    """The number of an entity's first token among those of its text, from 0."""
    return next((i for i, token in enumerate(output["tokens"]) if token["end"] > entity["start"]), 0)
