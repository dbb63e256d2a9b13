"""What OpenAI's clients call: `/v1/models`, `/v1/completions`, `/v1/chat/completions`."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from manyhats.api.auth import may_ask
from manyhats.api.body import documented, parse
from manyhats.api.errors import describe
from manyhats.api.hangup import unless_gone
from manyhats.api.sse import stream
from manyhats.api.state import runtime_of
from manyhats.backbone import Text
from manyhats.errors import InvalidRequest, NotFound
from manyhats.registry.names import BASE
from manyhats.registry.records import Version
from manyhats.runtime import Runtime
from manyhats.serving.question import Question, Reply

if TYPE_CHECKING:
    from manyhats.engine.sampling import Chosen
    from manyhats.engine.stream import Delta, Stream

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(may_ask)])

# Fields of a request that are parameters here, under their own names.
_SAME = (
    "temperature", "top_p", "top_k", "min_p", "n", "stop", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "seed", "response_format", "ignore_eos", "merged_adapters",
)  # fmt: skip
_DEFAULTS = {"temperature": 1.0}
_PAGE = 1000


class _Body(BaseModel):
    """Fields that are not known are taken and mean nothing, as OpenAI's own server has it."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1)
    stream: bool = False
    stream_options: dict[str, Any] | None = None


class CompletionBody(_Body):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool = False


class ChatBody(_Body):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


# ---- models


@router.get("/models")
async def models(request: Request) -> JSONResponse:
    """The bare backbone and every task."""
    runtime = runtime_of(request)
    found = [_model(runtime, runtime.backbone.name, None, bare=True)]
    page: str | None = None
    while True:
        tasks, page = runtime.registry.tasks(_PAGE, page)
        found += [_model(runtime, task.name, task.stable) for task in tasks]
        if page is None:
            return JSONResponse({"object": "list", "data": found})


@router.get("/models/{model:path}")
async def one_model(model: str, request: Request) -> JSONResponse:
    """One of them."""
    runtime = runtime_of(request)
    task = task_of(runtime, model)
    if task == BASE:
        return JSONResponse(_model(runtime, runtime.backbone.name, None, bare=True))
    try:
        return JSONResponse(_model(runtime, model, runtime.registry.task(task).stable))
    except NotFound:
        raise _unknown(model) from None


def _model(runtime: Runtime, name: str, version: Version | None, *, bare: bool = False) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(version.created if version else runtime.started),
        "owned_by": "manyhats",
        "root": version.ref if version else name,
        "parent": None if bare else runtime.backbone.name,
        "max_model_len": runtime.backbone.max_tokens,
        "permission": [],
    }


def task_of(runtime: Runtime, model: str) -> str:
    """The task that a model's name means: its own, or after the backbone's; `base` for the backbone itself."""
    for bare in (runtime.backbone.name, BASE):
        if model == bare:
            return BASE
        if model.startswith(f"{bare}:"):
            return model[len(bare) + 1 :]
    return model


def _unknown(model: str) -> NotFound:
    return NotFound(f"The model `{model}` does not exist.", param="model")


# ---- texts


@router.post("/completions", openapi_extra=documented(CompletionBody))
async def completions(request: Request) -> Response:
    """Continues prompts, given as texts or as tokens."""
    body = await parse(request, CompletionBody)
    parameters = _parameters(body, body.max_tokens)
    if body.logprobs is not None:
        parameters["logprobs"] = body.logprobs
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
    if body.echo and tokens is not None:
        tokenizer = runtime_of(request).backbone.tokenizer
        echoes = [tokenizer.decode(one) for one in tokens]
    else:
        echoes = [text.text for text in texts] if body.echo else []
    question = Question(task, texts, parameters, prompts=tokens, defaults=_DEFAULTS, generates=True)
    return await _answer(request, body, question, _Completions(body.model, request, echoes))


@router.post("/chat/completions", openapi_extra=documented(ChatBody))
async def chat(request: Request) -> Response:
    """Answers a conversation, by the task's chat template or the tokenizer's."""
    body = await parse(request, ChatBody)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    parameters = _parameters(body, most)
    if body.logprobs:
        parameters["logprobs"] = body.top_logprobs or 0
    extra = body.model_extra or {}
    if extra.get("tools") or extra.get("functions"):
        raise InvalidRequest("tools are not served", param="tools")
    defaults: dict[str, Any] = _DEFAULTS | {"max_new_tokens": 1_000_000}
    task = task_of(runtime_of(request), body.model)
    question = Question(task, (), parameters, chat=body.messages, defaults=defaults, generates=True)
    return await _answer(request, body, question, _Chat(body.model, request, []))


def _parameters(body: _Body, most: int | None) -> dict[str, Any]:
    extra = body.model_extra or {}
    given = {name: extra[name] for name in _SAME if extra.get(name) is not None}
    if most is not None:
        given["max_new_tokens"] = most
    if given.get("top_k") == -1:  # vLLM's word for all
        del given["top_k"]
    if isinstance(given.get("n"), int) and given["n"] == 1:
        del given["n"]
    if extra.get("include_stop_str_in_output"):
        given["include_stop"] = True
    forms = extra.get("structured_outputs") or {}
    regex = extra.get("guided_regex") or forms.get("regex")
    schema = extra.get("guided_json") or forms.get("json")
    if regex is not None:
        given["regex"] = regex
    elif schema is not None:
        given["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return given


async def _answer(request: Request, body: _Body, question: Question, form: _Form) -> Response:
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
        raise _unknown(body.model) from None


class _Form(ABC):
    """The shape of answers, whole or in pieces. `echoes`: the prompts, where they are to stand before the texts."""

    object: Literal["text_completion", "chat.completion"]
    chunk = "text_completion"
    prefix = "cmpl"

    def __init__(self, model: str, request: Request, echoes: Sequence[str]) -> None:
        self.tokenizer = runtime_of(request).backbone.tokenizer
        self.echoes = echoes
        self.about = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self.begun: set[int] = set()

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The answer in one piece."""
        assert reply.writing is not None
        choices = [self.choice(stream) for stream in reply.writing.streams]
        return self.about | {"object": self.object, "choices": choices, "usage": _usage(reply)}

    def last(self, reply: Reply) -> dict[str, Any]:
        """The piece behind all others, with the counts."""
        return self.about | {"object": self.chunk, "choices": [], "usage": _usage(reply)}

    @abstractmethod
    def choice(self, stream: Stream) -> dict[str, Any]:
        """One text."""

    @abstractmethod
    def pieces(self, delta: Delta) -> list[dict[str, Any]]:
        """What one token adds."""

    def echo(self, stream: Stream) -> str:
        """What stands before a text."""
        return self.echoes[stream.prompt_index] if self.echoes else ""


class _Completions(_Form):
    object = "text_completion"

    def choice(self, stream: Stream) -> dict[str, Any]:
        text = self.echo(stream) + stream.text.text
        logprobs = self.logprobs(stream.tokens) if stream.sampling.logprobs is not None else None
        return {"index": stream.index, "text": text, "finish_reason": stream.finished, "logprobs": logprobs}

    def pieces(self, delta: Delta) -> list[dict[str, Any]]:
        told = delta.chosen is not None and delta.chosen.logprob is not None
        text = delta.text
        if delta.stream.index not in self.begun:
            text = self.echo(delta.stream) + text
        self.begun.add(delta.stream.index)
        if not text and not told and delta.finished is None:
            return []
        logprobs = self.logprobs([delta.chosen]) if told and delta.chosen else None
        choice = {"index": delta.stream.index, "text": text, "finish_reason": delta.finished, "logprobs": logprobs}
        return [self.about | {"object": self.chunk, "choices": [choice]}]

    def logprobs(self, chosen: Sequence[Chosen]) -> dict[str, Any]:
        """Lists by token, as completions have them."""
        pieces = [self.tokenizer.piece(one.token) for one in chosen]
        offsets = [sum(len(piece) for piece in pieces[:i]) for i in range(len(pieces))]
        return {
            "tokens": pieces,
            "token_logprobs": [one.logprob for one in chosen],
            "top_logprobs": [{self.tokenizer.piece(t): value for t, value in one.top} for one in chosen],
            "text_offset": offsets,
        }


class _Chat(_Form):
    object = "chat.completion"
    prefix = "chatcmpl"
    chunk = "chat.completion.chunk"

    def choice(self, stream: Stream) -> dict[str, Any]:
        logprobs = self.logprobs(stream.tokens) if stream.sampling.logprobs is not None else None
        message = {"role": "assistant", "content": stream.text.text}
        return {"index": stream.index, "message": message, "finish_reason": stream.finished, "logprobs": logprobs}

    def pieces(self, delta: Delta) -> list[dict[str, Any]]:
        events: list[Mapping[str, Any]] = []
        if delta.stream.index not in self.begun:
            self.begun.add(delta.stream.index)
            events.append({"delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None})
        told = delta.chosen is not None and delta.chosen.logprob is not None
        if delta.text or told:
            logprobs = self.logprobs([delta.chosen]) if told and delta.chosen else None
            events.append({"delta": {"content": delta.text}, "finish_reason": None, "logprobs": logprobs})
        if delta.finished is not None:
            events.append({"delta": {}, "finish_reason": delta.finished, "logprobs": None})
        return [self.about | {"object": self.chunk, "choices": [{"index": delta.stream.index, **e}]} for e in events]

    def logprobs(self, chosen: Sequence[Chosen]) -> dict[str, Any]:
        """A list of tokens, as chats have it."""
        return {
            "content": [
                self._told(one.token, one.logprob) | {"top_logprobs": [self._told(t, value) for t, value in one.top]}
                for one in chosen
            ]
        }

    def _told(self, token: int, logprob: float | None) -> dict[str, Any]:
        piece = self.tokenizer.piece(token)
        return {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}


def _usage(reply: Reply) -> dict[str, int]:
    total = reply.input_tokens + reply.output_tokens
    return {"prompt_tokens": reply.input_tokens, "completion_tokens": reply.output_tokens, "total_tokens": total}
