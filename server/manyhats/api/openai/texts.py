"""`/v1/completions` and `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from manyhats.api.auth import may_ask
from manyhats.api.body import documented, parse
from manyhats.api.errors import describe
from manyhats.api.hangup import unless_gone
from manyhats.api.openai.bodies import DEFAULTS, Body, ChatBody, CompletionBody, parameters
from manyhats.api.openai.forms import Chat, Completions, Form
from manyhats.api.openai.models import task_of, unknown_model
from manyhats.api.sse import stream
from manyhats.api.state import runtime_of
from manyhats.backbone import Text
from manyhats.errors import InvalidRequest, NotFound
from manyhats.serving.question import Question

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(may_ask)])


@router.post("/completions", openapi_extra=documented(CompletionBody))
async def completions(request: Request) -> Response:
    """Continues prompts, given as texts or as tokens."""
    body = await parse(request, CompletionBody)
    given = parameters(body, body.max_tokens)
    if body.logprobs is not None:
        given["logprobs"] = body.logprobs
    extra = body.model_extra or {}
    if extra.get("suffix"):
        raise InvalidRequest("'suffix' is not served", param="suffix")
    if extra.get("best_of") not in (None, 1, extra.get("n", 1)):
        raise InvalidRequest("'best_of' is served where it is n", param="best_of")
    task = task_of(runtime_of(request), body.model)
    prompt = body.prompt
    texts: list[Text] = []
    tokens: list[list[int]] | None = None
    if isinstance(prompt, str):
        texts = [Text(prompt)]
    elif all(isinstance(one, str) for one in prompt):
        texts = [Text(one) for one in prompt if isinstance(one, str)]
    elif all(isinstance(one, int) for one in prompt):
        tokens = [[one for one in prompt if isinstance(one, int)]]
    else:
        tokens = [one for one in prompt if isinstance(one, list)]
    if body.echo and (body.logprobs is not None or body.max_tokens == 0):  # of the prompts' tokens too
        given["prompt_logprobs"] = max(body.logprobs or 0, given.get("prompt_logprobs", 0))
    question = Question(task, texts, given, prompts=tokens, defaults=DEFAULTS, generates=True)
    form = Completions(body.model, request, echoes=bool(body.echo), prompt_logprobs=_prompt_logprobs(body))
    return await _answer(request, body, question, form)


@router.post("/chat/completions", openapi_extra=documented(ChatBody))
async def chat(request: Request) -> Response:
    """Answers a conversation, by the task's chat template or the tokenizer's."""
    body = await parse(request, ChatBody)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    given = parameters(body, most)
    if body.logprobs:
        given["logprobs"] = body.top_logprobs or 0
    extra = body.model_extra or {}
    if extra.get("tools") or extra.get("functions"):
        raise InvalidRequest("tools are not served", param="tools")
    defaults: dict[str, Any] = DEFAULTS | {"max_new_tokens": 1_000_000}
    task = task_of(runtime_of(request), body.model)
    question = Question(task, (), given, chat=body.messages, defaults=defaults, generates=True)
    return await _answer(request, body, question, Chat(body.model, request, prompt_logprobs=_prompt_logprobs(body)))


def _prompt_logprobs(body: Body) -> bool:
    """Whether vLLM's values of the prompt's tokens are asked. Raises InvalidRequest in a stream: no place for them."""
    asked = (body.model_extra or {}).get("prompt_logprobs") is not None
    if asked and body.stream:
        raise InvalidRequest("'prompt_logprobs' is not supported with 'stream'; leave one out", param="prompt_logprobs")
    return asked


async def _answer(request: Request, body: Body, question: Question, form: Form) -> Response:
    service = runtime_of(request).service
    try:
        if not body.stream:
            reply = await unless_gone(request, service.ask(question))
            return JSONResponse(form.whole(reply))
        usage = bool((body.stream_options or {}).get("include_usage"))
        return await stream(
            request,
            service,
            question,
            pieces=form.pieces,
            end=lambda reply: [form.last(reply)] if usage else [],
            failure=lambda error: describe(error)[1],
        )
    except NotFound:
        raise unknown_model(body.model) from None
