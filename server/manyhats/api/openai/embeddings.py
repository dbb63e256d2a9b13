"""`/v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.json_response import json_response
from manyhats.api.known_fields import user_of
from manyhats.api.openai.bodies import Prompt, read_prompt
from manyhats.api.pooled import (
    VECTORS,
    PooledBody,
    Usage,
    as_base64,
    predict,
    truncation,
    usage_of,
    vectors,
    with_warnings,
)
from manyhats.api.schemas import AnswerBody, WarningBody
from manyhats.errors import InvalidRequest
from manyhats.serving.inference import InferenceResponse

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(require_predict)], route_class=DirectRoute)

_OWN = ("normalize", "prompt", "prompt_name", "pooling")  # parameters of ours


class EmbeddingBody(PooledBody):
    """`POST /v1/embeddings`. Token numbers are read as they are, without template, prompt or special tokens."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "base", "input": ["a text", "another"], "encoding_format": "float"}]}
    )

    model: StrictStr = Field(min_length=1)
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    normalize: StrictBool | None = None
    prompt: StrictStr | None = None
    prompt_name: StrictStr | None = None
    pooling: Any = None


class Embedding(AnswerBody):
    """One input's vector: its numbers, or in base64 those as little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(AnswerBody):
    """The answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.0, 0.8]}],
                    "model": "base",
                    "usage": {"prompt_tokens": 4, "total_tokens": 4},
                }
            ]
        }
    )

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    warnings: list[WarningBody] | None = None


@router.post("/embeddings", openapi_extra=documented(EmbeddingBody), response_model=EmbeddingList)
async def embeddings(request: Request) -> Response:
    """Vectors of texts, by a task of kind `embed` or the bare backbone."""
    body = await parse(request, EmbeddingBody)
    body.check()
    texts, tokens = read_prompt(body.input, "input")
    parameters = {name: value for name in _OWN if (value := getattr(body, name)) is not None}
    parameters |= truncation(body, request)
    if tokens is not None:
        parameters = _of_tokens(parameters)
    user = user_of(body.model_extra)
    result = await predict(request, body.model, texts, parameters, kinds=VECTORS, tokens=tokens, affinity=user)
    return await json_response(lambda: _answer(body, result), result.size)


def _of_tokens(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters for inputs that are given as tokens. Raises InvalidRequest for a prompt, which is a text."""
    for name in ("prompt", "prompt_name"):
        if name in parameters:
            raise InvalidRequest(f"'{name}' is put before texts; leave it out, or give texts", param=name)
    return parameters | {"prompt": ""}


def _answer(body: EmbeddingBody, result: InferenceResponse) -> dict[str, Any]:
    found = vectors(result, body.dimensions)
    base64 = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": as_base64(vector) if base64 else vector}
        for i, vector in enumerate(found)
    ]
    answer = {"object": "list", "data": data, "model": body.model, "usage": usage_of(result)}
    return with_warnings(answer, result)
