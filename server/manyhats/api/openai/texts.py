"""`/v1/completions` and `/v1/chat/completions`."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, documented_events, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.disconnect import cancel_on_disconnect
from manyhats.api.errors import describe
from manyhats.api.json_response import json_response
from manyhats.api.known_fields import user_of
from manyhats.api.model_names import task_of, unknown_model
from manyhats.api.openai.answers import ChatCompletion, ChatCompletionChunk, Completion
from manyhats.api.openai.bodies import (
    CHAT_DEFAULTS,
    COMPLETION_DEFAULTS,
    Body,
    ChatBody,
    CompletionBody,
    chat_options,
    chat_parameters,
    completion_parameters,
    read_prompt,
)
from manyhats.api.openai.formatters import Chat, Completions, ResponseFormatter
from manyhats.api.sse import stream
from manyhats.api.state import runtime_of
from manyhats.errors import InvalidRequest, NotFound
from manyhats.serving.inference import InferenceRequest

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(require_predict)], route_class=DirectRoute)


@router.post(
    "/completions",
    openapi_extra=documented(CompletionBody),
    response_model=Completion,
    responses=documented_events(Completion),
)
async def completions(request: Request) -> Response:
    """Continues prompts, given as texts or as tokens."""
    body = await parse(request, CompletionBody)
    given = completion_parameters(body)
    task = task_of(runtime_of(request), body.model)
    texts, tokens = read_prompt(body.prompt, "prompt")
    inference = InferenceRequest(
        task,
        texts,
        given.parameters,
        prompts=tokens,
        defaults=COMPLETION_DEFAULTS,
        generates=True,
        names=given.names,
        affinity=user_of(body.model_extra),
    )
    formatter = Completions(body.model, request, echoes=bool(body.echo), prompt_logprobs=_prompt_logprobs(body))
    return await _answer(request, body, inference, formatter)


@router.post(
    "/chat/completions",
    openapi_extra=documented(ChatBody),
    response_model=ChatCompletion,
    responses=documented_events(ChatCompletionChunk),
)
async def chat(request: Request) -> Response:
    """Answers a conversation, by the task's chat template or the tokenizer's."""
    body = await parse(request, ChatBody)
    given = chat_parameters(body)
    task = task_of(runtime_of(request), body.model)
    inference = InferenceRequest(
        task,
        (),
        given.parameters,
        chat=body.messages,
        chat_options=chat_options(body),
        defaults=CHAT_DEFAULTS,
        generates=True,
        names=given.names,
        affinity=user_of(body.model_extra),
    )
    return await _answer(request, body, inference, Chat(body.model, request, prompt_logprobs=_prompt_logprobs(body)))


def _prompt_logprobs(body: Body) -> bool:
    """Whether vLLM's values of the prompt's tokens are requested.

    Raises InvalidRequest in a stream, which has no field for them.
    """
    requested = body.prompt_logprobs is not None
    if requested and body.stream:
        raise InvalidRequest("'prompt_logprobs' is not supported with 'stream'; leave one out", param="prompt_logprobs")
    return requested


async def _answer(request: Request, body: Body, inference: InferenceRequest, formatter: ResponseFormatter) -> Response:
    service = runtime_of(request).service
    try:
        if not body.stream:
            result = await cancel_on_disconnect(request, service.predict(inference))
            return await json_response(lambda: formatter.whole(result), result.size)
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return await stream(
            request,
            service,
            inference,
            chunks=formatter.chunks,
            end=lambda result: [formatter.last(result)] if usage else [],
            failure=lambda error: describe(error)[1],
        )
    except NotFound:
        raise unknown_model(body.model) from None
    except InvalidRequest as error:
        if error.param is not None and error.param.startswith("inputs"):
            error.param = "messages" if isinstance(body, ChatBody) else error.param.replace("inputs", "prompt", 1)
        raise
