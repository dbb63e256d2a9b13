"""`POST /`, `/models/{task}` and `/models/{task}/pipeline/{pipeline}`.

`InferenceClient(model="http://127.0.0.1:8000/models/spam")` asks the task `spam`. At `/` it is the one that `model` or
`parameters.adapter_id` names, else the bare backbone. Tasks that generate are answered as TGI and LoRAX do.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, documented_events, parse
from manyhats.api.huggingface.answers import HubAnswer
from manyhats.api.huggingface.bodies import HubBody
from manyhats.api.huggingface.pipelines import PIPELINES, SAME
from manyhats.api.json_response import json_response
from manyhats.api.lorax import GenerateBody, answer_either, check_adapter, error_body
from manyhats.api.lorax_answers import GenerateEvent
from manyhats.api.model_names import task_of
from manyhats.api.shaped_route import TYPED_ERRORS, shaped_route
from manyhats.api.state import runtime_of
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest, NotFound
from manyhats.registry.names import BASE
from manyhats.registry.visibility import check_base
from manyhats.serving.task_views import settings_of

router = APIRouter(
    tags=["huggingface"],
    dependencies=[Depends(require_predict)],
    route_class=shaped_route(error_body),
    responses=TYPED_ERRORS,
)

_BODY = documented(HubBody, GenerateBody)
_EVENTS = documented_events(GenerateEvent)  # with `stream`


@router.post("/", openapi_extra=_BODY, response_model=HubAnswer, responses=_EVENTS)
async def root(request: Request) -> Response:
    """Answers by the kind of the task that the body names, or of the bare backbone."""
    return await _answer(request, None, None)


@router.post("/models/{task}", openapi_extra=_BODY, response_model=HubAnswer, responses=_EVENTS)
async def model(task: str, request: Request) -> Response:
    """Answers by the task's kind."""
    return await _answer(request, task, None)


@router.post("/models/{task}/pipeline/{pipeline}", openapi_extra=_BODY, response_model=HubAnswer, responses=_EVENTS)
async def pipeline(task: str, pipeline: str, request: Request) -> Response:
    """Answers as one of Hugging Face's pipelines, where the task's kind is that."""
    return await _answer(request, task, pipeline)


async def _answer(request: Request, task: str | None, pipeline: str | None) -> Response:
    body = await parse(request, HubBody)
    check_adapter(body.given)
    named = [name for name in (task, body.model, body.given.adapter_id) if name is not None]
    if len(set(named)) > 1:
        raise InvalidRequest(f"the request names several tasks: {', '.join(named)[:200]}; give one", param="model")
    name = named[0] if named else None
    if body.given.merged_adapters is not None:
        return await answer_either(request, name)
    own = _pipeline_of(request, name, body, pipeline)
    if own not in PIPELINES:  # it generates
        return await answer_either(request, name)
    if body.stream:
        raise InvalidRequest("'stream' is for tasks that generate; leave it out", param="stream")
    make, size = await PIPELINES[own](request, name, body)
    return await json_response(make, size)


def _pipeline_of(request: Request, name: str | None, body: HubBody, wanted: str | None) -> str:
    """The pipeline that answers. Raises NotFound, and InvalidRequest where the task's kind is another one's."""
    runtime = runtime_of(request)
    task = BASE if name is None else task_of(runtime, name)
    wanted = SAME.get(wanted, wanted) if wanted is not None else None
    if task == BASE:
        check_base()
        kind = runtime.service.base.info.kind
        own = KINDS[kind].libraries.pipeline
        of_vectors = wanted in PIPELINES or body.compares
        return (wanted or SAME["feature-extraction"]) if of_vectors else own
    try:
        own = KINDS[settings_of(runtime.registry, task).kind or ""].libraries.pipeline
    except NotFound as error:
        raise NotFound(error.message, param="model") from None
    if wanted is not None and wanted != own:
        raise InvalidRequest(f"the task `{task}` answers as the pipeline '{own}', not '{wanted}'", param="pipeline")
    return own
