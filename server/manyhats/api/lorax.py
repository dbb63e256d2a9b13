"""What clients of LoRAX and TGI call: `/generate`, `/generate_stream`, and both at `/`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from manyhats import errors
from manyhats.api.auth import may_ask
from manyhats.api.body import documented, parse
from manyhats.api.errors import describe
from manyhats.api.hangup import unless_gone
from manyhats.api.schemas import Many
from manyhats.api.sse import stream
from manyhats.api.state import runtime_of
from manyhats.backbone import Text, Tokenizer
from manyhats.errors import InvalidRequest, ManyhatsError
from manyhats.registry.names import BASE
from manyhats.serving.generation import finite
from manyhats.serving.merged import FIELD
from manyhats.serving.question import Question, Reply

if TYPE_CHECKING:
    from manyhats.engine.sampling import Chosen
    from manyhats.engine.stream import Delta, Stream

# Exception, status, `error_type`: LoRAX's clients go by the last. The first that fits holds.
_KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.InvalidRequest, 422, "validation"),
    (errors.TooLarge, 422, "validation"),
    (errors.NotFound, 424, "generation"),
    (errors.Overloaded, 429, "overloaded"),
    (errors.DeadlineExceeded, 500, "incomplete_generation"),
    (errors.NotReady, 503, "healthcheck"),
    (errors.EngineFailure, 424, "generation"),
)


def _told(error: Exception) -> tuple[int, dict[str, Any]]:
    status, body = describe(error)
    known = ((own, name) for kind, own, name in _KINDS if isinstance(error, kind))
    status, name = next(known, (status, "unknown"))
    return status, {"error": body["error"]["message"], "error_type": name}


class _Route(APIRoute):
    """Errors in LoRAX's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except ManyhatsError as error:
                status, body = _told(error)
                return JSONResponse(body, status)

        return handle


router = APIRouter(tags=["lorax"], route_class=_Route, dependencies=[Depends(may_ask)])


class Parameters(BaseModel):
    """Of a request; what is served nowhere here is refused where it is set."""

    model_config = ConfigDict(extra="allow")

    adapter_id: str | None = None
    adapter_source: str | None = None
    merged_adapters: dict[str, Any] | None = None
    max_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: Many[str] = Field(default_factory=list)
    ignore_eos_token: bool = False
    return_full_text: bool | None = False
    return_k_alternatives: int | None = None
    response_format: dict[str, Any] | None = None
    details: bool = False
    decoder_input_details: bool | None = False


class GenerateBody(BaseModel):
    """`POST /generate`."""

    model_config = ConfigDict(extra="allow")

    inputs: str
    parameters: Parameters = Field(default_factory=Parameters)
    stream: bool = False


_REFUSED = ("typical_p", "watermark", "truncate", "schema")


@router.post("/generate", openapi_extra=documented(GenerateBody))
async def generate(request: Request) -> Response:
    """Continues a prompt."""
    body = await parse(request, GenerateBody)
    return JSONResponse(await _whole(request, body))


@router.post("/generate_stream", openapi_extra=documented(GenerateBody))
async def generate_stream(request: Request) -> Response:
    """Continues a prompt, token by token."""
    return await _pieces(request, await parse(request, GenerateBody))


@router.post("/", openapi_extra=documented(GenerateBody))
async def either(request: Request) -> Response:
    """As `stream` says; the answer in one piece stands in a list, as TGI has it."""
    body = await parse(request, GenerateBody)
    if body.stream:
        return await _pieces(request, body)
    return JSONResponse([await _whole(request, body)])


def _question(body: GenerateBody) -> Question:
    p = body.parameters
    extra = p.model_extra or {}
    for name in _REFUSED:
        if extra.get(name):
            raise InvalidRequest(f"`{name}` is not served", param=name)
    if extra.get("best_of") not in (None, 1):
        raise InvalidRequest("`best_of` is not served; ask several times", param="best_of")
    if p.adapter_source not in (None, "local"):
        raise InvalidRequest(
            f"`adapter_source` is '{p.adapter_source}', but adapters are uploaded here; leave it out",
            param="adapter_source",
        )
    given: dict[str, Any] = {
        "logprobs": p.return_k_alternatives or 0,
        "stop": p.stop,
        "include_stop": True,
        "ignore_eos": p.ignore_eos_token,
    }
    for name in ("max_new_tokens", "repetition_penalty", "seed", "top_k", "top_p"):
        if getattr(p, name) is not None:
            given[name] = getattr(p, name)
    if p.temperature is not None:
        given["temperature"] = p.temperature
    elif p.do_sample or p.top_k is not None or p.top_p is not None:
        given["temperature"] = 1.0
    if p.decoder_input_details:
        given["prompt_logprobs"] = 0
    if p.merged_adapters is not None:
        given[FIELD] = {name: value for name, value in p.merged_adapters.items() if value is not None}
    if p.response_format is not None:
        schema = p.response_format.get("schema")
        given["response_format"] = (
            {"type": "json_object"} if schema is None else {"type": "json_schema", "json_schema": {"schema": schema}}
        )
    return Question(p.adapter_id or BASE, [Text(body.inputs)], given, generates=True)


async def _whole(request: Request, body: GenerateBody) -> dict[str, Any]:
    service = runtime_of(request).service
    reply = await unless_gone(request, service.ask(_question(body)))
    assert reply.writing is not None
    (text,) = reply.writing.streams
    tokenizer = service.backbone.tokenizer
    answer: dict[str, Any] = {"generated_text": _full(body, text)}
    if body.parameters.details:
        answer["details"] = _details(reply, text, body) | {
            "prefill": _prefill(text, tokenizer),
            "tokens": [_token(chosen, tokenizer.piece(chosen.token), tokenizer) for chosen in text.tokens],
        }
    return answer


async def _pieces(request: Request, body: GenerateBody) -> Response:
    """The last event has the whole text, and its token once more is not sent."""
    if body.parameters.decoder_input_details:
        raise InvalidRequest("`decoder_input_details` is not supported in a stream", param="decoder_input_details")
    service = runtime_of(request).service
    tokenizer = service.backbone.tokenizer
    held: list[tuple[Chosen | None, str]] = []  # the event of a token waits for the next: the last one tells more

    def event(chosen: Chosen | None, text: str) -> dict[str, Any]:
        token = {"id": 0, "text": text, "logprob": 0.0, "special": True}
        if chosen is not None:
            token = _token(chosen, text, tokenizer)
        return {"token": token, "generated_text": None, "details": None}

    def pieces(delta: Delta) -> list[dict[str, Any]]:
        ready = [event(*one) for one in held]
        held[:] = [(delta.chosen, delta.text)]
        return ready

    def end(reply: Reply) -> list[dict[str, Any]]:
        assert reply.writing is not None
        (text,) = reply.writing.streams
        last = event(*held[0]) if held else event(None, "")
        details = _details(reply, text, body) if body.parameters.details else None
        return [last | {"generated_text": _full(body, text), "details": details}]

    return await stream(
        request,
        service,
        _question(body),
        pieces=pieces,
        end=end,
        failure=lambda error: _told(error)[1],
        done=False,
    )


def _full(body: GenerateBody, text: Stream) -> str:
    return (body.inputs if body.parameters.return_full_text else "") + text.text.text


def _details(reply: Reply, text: Stream, body: GenerateBody) -> dict[str, Any]:
    reason = "length" if text.finished == "length" else "stop_sequence" if text.text.stop else "eos_token"
    return {
        "finish_reason": reason,
        "prompt_tokens": reply.input_tokens,
        "generated_tokens": reply.output_tokens,
        "seed": body.parameters.seed,
    }


def _prefill(text: Stream, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The prompt's tokens, where they are asked; the first has no value."""
    if text.scores is None:
        return []
    known = zip(text.scores.prompt, text.scores.scores, strict=True)
    return [
        {"id": t, "text": tokenizer.piece(t), "logprob": None if one is None else finite(one.logprob)}
        for t, one in known
    ]


def _token(chosen: Chosen, text: str, tokenizer: Tokenizer) -> dict[str, Any]:
    token: dict[str, Any] = {"id": chosen.token, "text": text, "logprob": chosen.logprob, "special": False}
    if chosen.top:
        token["alternative_tokens"] = [
            {"id": t, "text": tokenizer.piece(t), "logprob": value} for t, value in chosen.top
        ]
    return token
