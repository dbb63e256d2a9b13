"""`/embed`, `/embed_all` and `/similarity`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field, RootModel, StrictBool, StrictInt, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.json_response import json_response
from manyhats.api.lorax_pooled import LoraxVector, answer_embedding, is_lorax
from manyhats.api.openai.bodies import Prompt, read_prompt
from manyhats.api.pooled import VECTORS, predict, vectors
from manyhats.api.relevance import Compared, cosines
from manyhats.api.shaped_route import TYPED_ERRORS, shaped_route
from manyhats.api.tei.bodies import TeiBody
from manyhats.api.tei.errors import error_body
from manyhats.errors import InvalidRequest

router = APIRouter(
    tags=["tei"],
    dependencies=[Depends(require_predict)],
    route_class=shaped_route(error_body),
    responses=TYPED_ERRORS,
)

_EXAMPLE: dict[str, Any] = {"inputs": ["a text", "another"], "normalize": True}


class EmbedAllBody(TeiBody):
    """`POST /embed_all`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["a text", "another"]}]})

    inputs: Prompt
    prompt_name: StrictStr | None = None


class EmbedBody(EmbedAllBody):
    """`POST /embed`. Vectors are of length one unless `normalize` is false.

    LoRAX's own client sends `parameters` and `stream`, too, and gets the one vector under `embeddings`, as the task has
    it.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    normalize: StrictBool | None = None
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None


class Vectors(RootModel[list[list[float]]]):
    """A vector for each input."""

    model_config = ConfigDict(json_schema_extra={"examples": [[[0.6, 0.0, 0.8]]]})


class TokenVectors(RootModel[list[list[list[float]]]]):
    """For each input a vector for each of its tokens, special ones included."""

    model_config = ConfigDict(json_schema_extra={"examples": [[[[0.6, 0.0, 0.8], [0.1, 0.4, -0.2]]]]})


class SimilarityBody(TeiBody):
    """`POST /similarity`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": {"source_sentence": "a text", "sentences": ["one", "two"]}}]}
    )

    inputs: Compared
    parameters_: Annotated[dict[str, Any] | None, Field(alias="parameters")] = None


class Cosines(RootModel[list[float]]):
    """The cosine of the text's vector and each of the others'."""

    model_config = ConfigDict(json_schema_extra={"examples": [[0.93, 0.12]]})


@router.post("/embed", openapi_extra=documented(EmbedBody), response_model=Vectors | LoraxVector)
async def embed(request: Request) -> Response:
    """Vectors of texts, by a task of kind `embed` or the bare backbone."""
    body = await parse(request, EmbedBody)
    if is_lorax(body.model_extra):
        return await answer_embedding(request)
    parameters = body.parameters(request) | {"normalize": body.normalize is not False}
    if body.prompt_name is not None:
        parameters["prompt_name"] = body.prompt_name
    result = await predict(
        request, body.task, **_read(body.inputs), parameters=parameters, kinds=VECTORS, field="inputs"
    )
    unit = body.normalize is not False
    return await json_response(lambda: vectors(result, body.dimensions, unit=unit), result.size)


@router.post("/embed_all", openapi_extra=documented(EmbedAllBody), response_model=TokenVectors)
async def embed_all(request: Request) -> Response:
    """Vectors of all tokens of texts, by a task of kind `embed` or the bare backbone."""
    body = await parse(request, EmbedAllBody)
    parameters = body.parameters(request) | {"pooling": "none", "normalize": False}
    if body.prompt_name is not None:
        parameters["prompt_name"] = body.prompt_name
    result = await predict(
        request, body.task, **_read(body.inputs), parameters=parameters, kinds=VECTORS, field="inputs"
    )
    return await json_response(lambda: [output["embedding"] for output in result.outputs], result.size)


@router.post("/similarity", openapi_extra=documented(SimilarityBody), response_model=Cosines)
async def similarity(request: Request) -> Response:
    """How near texts are to one, by the cosine of their vectors."""
    body = await parse(request, SimilarityBody)
    scores = await cosines(
        request,
        body.task,
        [body.inputs.source_sentence],
        body.inputs.sentences,
        body.parameters(request),
        field="inputs",
    )
    return await json_response(lambda: scores.values, scores.result.size)


def _read(inputs: Any) -> dict[str, Any]:
    """The inputs as arguments of `predict`. Raises InvalidRequest for none."""
    texts, tokens = read_prompt(inputs, "inputs")
    if not texts and not tokens:
        raise InvalidRequest("'inputs' is empty", param="inputs")
    return {"texts": texts, "tokens": tokens}
