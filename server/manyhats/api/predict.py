"""Asking: `/v1/tasks/{task}/predict` and `/v1/predict`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, documented_events, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.disconnect import cancel_on_disconnect
from manyhats.api.errors import describe
from manyhats.api.json_response import json_response
from manyhats.api.predictions import Prediction, PredictionEvent, PredictionList
from manyhats.api.schemas import PredictBody, PredictManyBody, texts
from manyhats.api.sse import stream
from manyhats.api.state import runtime_of
from manyhats.api.views import version_ref
from manyhats.core.sequence import Delta
from manyhats.errors import InvalidRequest, ManyhatsError, TooLarge
from manyhats.serving.generation import token_logprobs
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.service import Service

_ERROR = 8  # values: the cost of an answer that is an error

router = APIRouter(prefix="/v1", tags=["predict"], dependencies=[Depends(require_predict)], route_class=DirectRoute)


@router.post(
    "/tasks/{task}/predict",
    openapi_extra=documented(PredictBody),
    response_model=Prediction,
    responses=documented_events(PredictionEvent),
)
async def predict(task: str, request: Request) -> Response:
    """Asks one task. `task` may name an alias or a version: `spam@canary`, `spam@3`."""
    body = await parse(request, PredictBody)
    service = runtime_of(request).service
    inference = InferenceRequest(task, texts(body.inputs), body.parameters, affinity=body.affinity)
    if body.parameters.get("stream") is True:
        return await _stream(request, service, inference)
    result = await cancel_on_disconnect(request, service.predict(inference))
    return await json_response(lambda: response_body(result), result.size)


async def _stream(request: Request, service: Service, inference: InferenceRequest) -> Response:
    """One event for each token, then the whole answer, then `[DONE]`."""

    def chunks(delta: Delta) -> list[dict[str, Any]]:
        event: dict[str, Any] = {"input": delta.sequence.prompt_index, "text": delta.text}
        if delta.sequence.request.samples_per_prompt != 1:
            event["choice"] = delta.sequence.index % delta.sequence.request.samples_per_prompt
        event["tokens"] = [] if delta.token is None else [delta.token.token]
        if delta.token is not None and delta.token.logprob is not None:
            event["logprobs"] = token_logprobs([delta.token], service.backbone.tokenizer)
        event["finish_reason"] = delta.finish_reason
        return [event]

    return await stream(
        request,
        service,
        replace(inference, generates=True),
        chunks=chunks,
        end=lambda result: [response_body(result)],
        failure=lambda error: describe(error)[1],
    )


@router.post("/predict", openapi_extra=documented(PredictManyBody), response_model=PredictionList)
async def predict_many(request: Request) -> Response:
    """Asks many tasks at once, or several tasks about the same input. One item's failure leaves the others alone."""
    body = await parse(request, PredictManyBody)
    runtime = runtime_of(request)
    inferences = _inferences(body)
    limit = runtime.settings.max_inputs
    count = sum(len(question.texts) for question in inferences)
    if count > limit:
        raise TooLarge(f"there are {count} inputs; at most {limit} in one call", param="requests")
    answers = await cancel_on_disconnect(request, runtime.service.predict_many(inferences))

    def bodies() -> dict[str, Any]:
        return {"results": [_result(answer, one.task) for answer, one in zip(answers, inferences, strict=True)]}

    size = sum(answer.size if isinstance(answer, InferenceResponse) else _ERROR for answer in answers)
    return await json_response(bodies, size)


def _inferences(body: PredictManyBody) -> list[InferenceRequest]:
    if (body.requests is None) == (body.tasks is None):
        raise InvalidRequest("give either 'requests' or 'tasks' with 'inputs'", param="requests")
    if body.requests is not None:
        if body.inputs is not None or body.parameters:
            raise InvalidRequest("'inputs' and 'parameters' belong inside each of 'requests'", param="inputs")
        if not body.requests:
            raise InvalidRequest("'requests' is empty", param="requests")
        return [
            InferenceRequest(
                item.task,
                texts(item.inputs),
                item.parameters,
                affinity=body.affinity if item.affinity is None else item.affinity,
            )
            for item in body.requests
        ]
    if body.inputs is None:
        raise InvalidRequest("'tasks' needs 'inputs'", param="inputs")
    if not body.tasks:
        raise InvalidRequest("'tasks' is empty", param="tasks")
    shared = texts(body.inputs)
    return [InferenceRequest(task, shared, body.parameters, affinity=body.affinity) for task in body.tasks]


def _result(answer: InferenceResponse | ManyhatsError, task: str) -> dict[str, Any]:
    if isinstance(answer, InferenceResponse):
        return response_body(answer)
    return {"task": task} | describe(answer)[1]


def response_body(result: InferenceResponse) -> dict[str, Any]:
    """The answer to one inference, as api.md has it."""
    body: dict[str, Any] = {
        "id": result.id,
        "task": result.version.task,
        **version_ref(result.version),
        "kind": result.kind,
        "outputs": result.outputs,
        "usage": {"input_tokens": result.input_tokens, "output_tokens": result.output_tokens},
        "timing": {
            "queue_ms": round(result.queue_ms, 3),
            "load_ms": round(result.load_ms, 3),
            "compute_ms": round(result.compute_ms, 3),
        },
        "batch": result.batch,
    }
    if result.warnings:
        body["warnings"] = [{"input": w.input, "code": w.code, "message": w.message} for w in result.warnings]
    return body
