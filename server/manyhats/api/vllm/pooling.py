"""`/pooling`: what a pass gives, as the task's kind or the request's `task` pools it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field, StrictBool, StrictInt

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.json_response import json_response
from manyhats.api.openai.bodies import Prompt, read_prompt
from manyhats.api.pooled import LABELS, VECTORS, PooledBody, as_base64, predict, shortened, truncation
from manyhats.api.schemas import AnswerBody
from manyhats.api.vllm.answers import USAGE, AnswerList, answer_list
from manyhats.api.vllm.classify import probabilities
from manyhats.errors import InvalidRequest
from manyhats.serving.inference import InferenceResponse

router = APIRouter(tags=["vllm"], dependencies=[Depends(require_predict)], route_class=DirectRoute)


class _Pooled(NamedTuple):
    """Which kinds of task give it, and the parameters that they are asked with."""

    kinds: tuple[str, ...]
    parameters: dict[str, Any]


_TASKS = {
    "embed": _Pooled(VECTORS, {}),
    "token_embed": _Pooled(VECTORS, {"pooling": "none"}),
    "classify": _Pooled(LABELS, {"top_k": None}),
}
_BY_KIND = _Pooled((*VECTORS, *LABELS), {})


class PoolingBody(PooledBody):
    """`POST /pooling`. `task`: what is pooled; by default what the task's kind answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "base", "input": "a text", "task": "embed"}]})

    input: Prompt
    task: Literal["embed", "token_embed", "classify"] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = None
    normalize: StrictBool | None = None


class Pooled(AnswerBody):
    """One input's values: a list, one for each token, or in base64."""

    index: int
    object: Literal["pooling"]
    data: list[list[float]] | list[float] | str


class PooledList(AnswerList):
    """The answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "pool-292fa72e96d9450ab7fc39019eff37be",
                    "object": "list",
                    "created": 1764230400,
                    "model": "base",
                    "data": [{"index": 0, "object": "pooling", "data": [0.6, 0.0, 0.8]}],
                    "usage": USAGE,
                }
            ]
        }
    )

    data: list[Pooled]


@router.post("/pooling", openapi_extra=documented(PoolingBody), response_model=PooledList)
async def pooling(request: Request) -> Response:
    """Pooled outputs: vectors of texts or of their tokens, or the scores of labels."""
    body = await parse(request, PoolingBody)
    body.check()
    texts, tokens = read_prompt(body.input, "input")
    wanted = _TASKS[body.task] if body.task is not None else _BY_KIND
    parameters = truncation(body, request) | wanted.parameters
    if body.normalize is not None:
        parameters["normalize"] = body.normalize
    result = await predict(request, body.model, texts, parameters, kinds=wanted.kinds, tokens=tokens)
    return await json_response(lambda: _answer(body, result), result.size)


def _answer(body: PoolingBody, result: InferenceResponse) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for i, output in enumerate(result.outputs):
        values = output["embedding"] if "embedding" in output else probabilities(output, raw=False)
        if body.dimensions is not None:
            values = _shortened(output, body.dimensions)
        data.append(
            {
                "index": i,
                "object": "pooling",
                "data": as_base64(values) if body.encoding_format == "base64" else values,
            }
        )
    return answer_list("pool", body.model, data, result)


def _shortened(output: dict[str, Any], dimensions: int) -> Any:
    """A vector, or those of all tokens, with fewer numbers. Raises InvalidRequest for labels, which are not cut."""
    if "embedding" not in output:
        raise InvalidRequest("'dimensions' is for vectors; the task gives scores of labels", param="dimensions")
    return shortened(output["embedding"], dimensions)
