"""What clients of LoRAX and TGI call to generate: `/generate`, `/generate_stream`, and both in one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from manyhats import errors
from manyhats.api.auth import require_predict
from manyhats.api.body import documented, documented_events, parse
from manyhats.api.disconnect import cancel_on_disconnect
from manyhats.api.json_response import json_response
from manyhats.api.known_fields import FOLLOWED, add_parameter, reject_unsupported, translate
from manyhats.api.lorax_answers import Generated, GenerateEvent
from manyhats.api.shaped_route import TYPED_ERRORS, shaped_route, typed_error
from manyhats.api.sse import EventStream, stream
from manyhats.api.state import runtime_of
from manyhats.backbone import Text, Tokenizer
from manyhats.core.sampling_params import SampledToken
from manyhats.core.sequence import Delta, Sequence
from manyhats.errors import InvalidRequest
from manyhats.registry.names import BASE
from manyhats.serving.generation import finite, prompt_logprobs_of, text_of
from manyhats.serving.inference import InferenceRequest, InferenceResponse
from manyhats.serving.merged import FIELD

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


error_body = typed_error(_KINDS, "unknown")


router = APIRouter(
    tags=["lorax"],
    route_class=shaped_route(error_body),
    dependencies=[Depends(require_predict)],
    responses=TYPED_ERRORS,
)


_Alternatives = Annotated[StrictInt, Field(ge=0, le=20)]


class Parameters(BaseModel):
    """Of a request. What is not declared is a parameter of ours, or stands in `api.known_fields`."""

    model_config = ConfigDict(extra="allow")

    adapter_id: StrictStr | None = None
    adapter_source: StrictStr | None = None
    merged_adapters: dict[str, Any] | None = None
    best_of: Any = None
    max_new_tokens: Any = None
    do_sample: StrictBool | None = None
    return_full_text: StrictBool | None = None
    return_k_alternatives: _Alternatives | None = None
    top_n_tokens: _Alternatives | None = None
    truncate: Any = None
    grammar: dict[str, Any] | None = None
    details: StrictBool | None = None
    decoder_input_details: StrictBool | None = None


class GenerateBody(BaseModel):
    """`POST /generate`."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"inputs": "Once", "parameters": {"adapter_id": "stories", "max_new_tokens": 16}}]
        },
    )

    inputs: StrictStr
    parameters: Parameters | None = None
    stream: StrictBool | None = None

    @property
    def given(self) -> Parameters:
        """The parameters; where there are none, none of them is set."""
        return self.parameters or Parameters()


@router.post("/generate", openapi_extra=documented(GenerateBody), response_model=Generated)
async def generate(request: Request) -> Response:
    """Continues a prompt."""
    body = await parse(request, GenerateBody)
    return await _answer(request, body)


@router.post(
    "/generate_stream",
    openapi_extra=documented(GenerateBody),
    response_class=EventStream,
    responses=documented_events(GenerateEvent),
)
async def generate_stream(request: Request) -> Response:
    """Continues a prompt, token by token."""
    return await _stream(request, await parse(request, GenerateBody))


async def answer_either(request: Request, task: str | None = None) -> Response:
    """As `stream` says; a whole answer is in a list, as TGI has it. `task`: the one that the path names."""
    body = await parse(request, GenerateBody)
    if task is not None:
        body.parameters = body.given.model_copy(update={"adapter_id": task})
    if body.stream:
        return await _stream(request, body)
    return await _answer(request, body, listed=True)


def check_adapter(given: Parameters) -> None:
    """Raises InvalidRequest for an adapter that is to come from elsewhere."""
    if given.adapter_id is not None and given.adapter_source not in (None, "local"):
        raise InvalidRequest(
            f"`adapter_source` is '{given.adapter_source}', but adapters are uploaded here; leave it out",
            param="adapter_source",
        )


def _inference(body: GenerateBody) -> InferenceRequest:
    p = body.given
    fields = p.model_extra or {}
    reject_unsupported(body.model_extra)
    reject_unsupported(fields, FOLLOWED)
    if p.best_of not in (None, 1) or isinstance(p.best_of, bool):
        raise InvalidRequest("'best_of' is not supported; ask several times", param="best_of")
    check_adapter(p)
    found = translate(fields)
    for parameter, name, value in (
        ("max_new_tokens", "max_new_tokens", p.max_new_tokens),
        ("truncate_prompt_tokens", "truncate", p.truncate),
        ("response_format", "grammar", p.grammar),
    ):
        if value is not None:
            add_parameter(found, parameter, name, value)
    given: dict[str, Any] = {parameter: value for parameter, (_, value) in found.items()}
    given["logprobs"] = max(p.return_k_alternatives or 0, p.top_n_tokens or 0)
    given.setdefault("include_stop", True)
    if "temperature" not in given and (p.do_sample or given.keys() & {"top_k", "top_p", "min_p"}):
        given["temperature"] = 1.0
    if p.decoder_input_details:
        given["prompt_logprobs"] = 0
    if p.merged_adapters is not None:
        given[FIELD] = {name: value for name, value in p.merged_adapters.items() if value is not None}
    names = {parameter: f"parameters.{name}" for parameter, (name, _) in found.items()}
    return InferenceRequest(p.adapter_id or BASE, [Text(body.inputs)], given, generates=True, names=names)


async def _answer(request: Request, body: GenerateBody, *, listed: bool = False) -> Response:
    service = runtime_of(request).service
    result = await cancel_on_disconnect(request, service.predict(_inference(body)))

    def whole() -> Any:
        answer = _whole(result, body, service.backbone.tokenizer)
        return [answer] if listed else answer

    return await json_response(whole, result.size)


def _whole(result: InferenceResponse, body: GenerateBody, tokenizer: Tokenizer) -> dict[str, Any]:
    (sequence,) = result.sequences
    answer: dict[str, Any] = {"generated_text": _full(body, sequence)}
    if body.given.details:
        answer["details"] = _details(result, sequence, body) | {
            "prefill": _prefill(sequence, tokenizer),
            "tokens": [
                _token(sampled, tokenizer.token_to_string(sampled.token), tokenizer, body.given)
                for sampled in sequence.emitted_tokens
            ],
        }
        if body.given.top_n_tokens:
            answer["details"]["top_tokens"] = [
                _top_tokens(sampled, tokenizer, body.given) for sampled in sequence.emitted_tokens
            ]
    return answer


async def _stream(request: Request, body: GenerateBody) -> Response:
    """The last event has the whole text, and its token once more is not sent."""
    if body.given.decoder_input_details:
        raise InvalidRequest("`decoder_input_details` is not supported in a stream", param="decoder_input_details")
    service = runtime_of(request).service
    tokenizer = service.backbone.tokenizer
    # The event of a token waits for the next: the last one says more.
    pending: list[tuple[SampledToken | None, str]] = []

    def event(sampled: SampledToken | None, text: str) -> dict[str, Any]:
        token = {"id": 0, "text": text, "logprob": 0.0, "special": True}
        if sampled is not None:
            token = _token(sampled, text, tokenizer, body.given)
        sent: dict[str, Any] = {"token": token, "generated_text": None, "details": None}
        if sampled is not None and body.given.top_n_tokens:
            sent["top_tokens"] = _top_tokens(sampled, tokenizer, body.given)
        return sent

    def chunks(delta: Delta) -> list[dict[str, Any]]:
        ready = [event(*one) for one in pending]
        pending[:] = [(delta.token, delta.text)]
        return ready

    def end(result: InferenceResponse) -> list[dict[str, Any]]:
        (sequence,) = result.sequences
        last = event(*pending[0]) if pending else event(None, "")
        details = _details(result, sequence, body) if body.given.details else None
        return [last | {"generated_text": _full(body, sequence), "details": details}]

    return await stream(
        request,
        service,
        _inference(body),
        chunks=chunks,
        end=end,
        failure=lambda error: error_body(error)[1],
        done=False,
    )


def _full(body: GenerateBody, sequence: Sequence) -> str:
    return (body.inputs if body.given.return_full_text else "") + text_of(sequence).text


def _details(result: InferenceResponse, sequence: Sequence, body: GenerateBody) -> dict[str, Any]:
    reason = (
        "length" if sequence.finish_reason == "length" else "stop_sequence" if text_of(sequence).stop else "eos_token"
    )
    return {
        "finish_reason": reason,
        "prompt_tokens": result.input_tokens,
        "generated_tokens": result.output_tokens,
        "seed": (body.given.model_extra or {}).get("seed"),
    }


def _prefill(sequence: Sequence, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The prompt's tokens, where they are requested; the first has no value."""
    scores = prompt_logprobs_of(sequence)
    if scores is None:
        return []
    known = zip(scores.prompt, scores.scores, strict=True)
    return [
        {"id": t, "text": tokenizer.token_to_string(t), "logprob": None if one is None else finite(one.logprob)}
        for t, one in known
    ]


def _token(sampled: SampledToken, text: str, tokenizer: Tokenizer, given: Parameters) -> dict[str, Any]:
    token: dict[str, Any] = {"id": sampled.token, "text": text, "logprob": sampled.logprob, "special": False}
    if given.return_k_alternatives and sampled.top:
        token["alternative_tokens"] = _alternatives(sampled, given.return_k_alternatives, tokenizer)
    return token


def _top_tokens(sampled: SampledToken, tokenizer: Tokenizer, given: Parameters) -> list[dict[str, Any]]:
    """TGI's form of the likeliest tokens in one's place."""
    return [one | {"special": False} for one in _alternatives(sampled, given.top_n_tokens or 0, tokenizer)]


def _alternatives(sampled: SampledToken, limit: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return [{"id": t, "text": tokenizer.token_to_string(t), "logprob": value} for t, value in sampled.top[:limit]]
