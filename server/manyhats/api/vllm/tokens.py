"""`/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.json_response import json_response
from manyhats.api.known_fields import reject_unsupported
from manyhats.api.model_names import task_of
from manyhats.api.schemas import AnswerBody, Many
from manyhats.api.shaped_route import TYPED_ERRORS, in_shape
from manyhats.api.state import runtime_of
from manyhats.api.tei.errors import error_body
from manyhats.api.tei.tokens import TeiTokenizeBody, TokensOfTexts, answer_tokens
from manyhats.api.tokenising import check_known, check_length, check_model, encode
from manyhats.backbone import Encoded
from manyhats.errors import InvalidRequest
from manyhats.registry.names import BASE
from manyhats.runtime import Runtime
from manyhats.serving.chat import ChatOptions, chat_prompt
from manyhats.serving.task_views import settings_of
from manyhats.serving.threads import SMALL_TEXT, at_once_if

router = APIRouter(tags=["vllm"], dependencies=[Depends(require_predict)], route_class=DirectRoute)


class TokenizeForm(BaseModel):
    """Whose form a request has."""

    model_config = ConfigDict(extra="ignore")

    inputs: Any = None


class TokenizeBody(BaseModel):
    """`POST /tokenize`: either `prompt`, or `messages` for the chat template of the task or of the backbone."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"prompt": "a text", "return_token_strs": True}]}
    )

    model: StrictStr | None = None
    prompt: StrictStr | None = None
    messages: Many[dict[str, Any]] | None = None
    add_special_tokens: StrictBool | None = None
    add_generation_prompt: StrictBool | None = None
    continue_final_message: StrictBool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: StrictBool | None = None


class TokenList(AnswerBody):
    """A text's tokens. `max_model_len`: how many the backbone reads."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"count": 2, "max_model_len": 512, "tokens": [64, 311], "token_strs": None}]}
    )

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeBody(BaseModel):
    """`POST /detokenize`."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"tokens": [64, 311]}]})

    model: StrictStr | None = None
    tokens: Many[StrictInt]


class DetokenizedText(AnswerBody):
    """The text of some tokens."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a text"}]})

    prompt: str


@router.post(
    "/tokenize",
    openapi_extra=documented(TokenizeBody, TeiTokenizeBody),
    response_model=TokenList | TokensOfTexts,
    responses=TYPED_ERRORS,  # of TEI's form
)
async def tokenize(request: Request) -> Response:
    """The tokens of a text or of a conversation, as the backbone reads them.

    TEI's form, with `inputs`, is answered as TEI does.
    """
    if "inputs" in (await parse(request, TokenizeForm)).model_fields_set:
        return await in_shape(error_body, answer_tokens(request))
    body = await parse(request, TokenizeBody)
    reject_unsupported(body.model_extra)
    runtime = runtime_of(request)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give either 'prompt' or 'messages'", param="prompt")
    check_model(runtime, body.model)
    text = body.prompt or ""
    check_length(runtime, text, "prompt")
    small = body.messages is None and len(text) <= SMALL_TEXT
    encoded = await at_once_if(small, lambda: _encoded(runtime, body, text), runtime.threads.tokenising)

    def answer() -> dict[str, Any]:
        strings = [runtime.backbone.tokenizer.token_to_string(token) for token in encoded.ids]
        return {
            "count": len(encoded.ids),
            "max_model_len": runtime.backbone.max_tokens,
            "tokens": encoded.ids,
            "token_strs": strings if body.return_token_strs else None,
        }

    return await json_response(answer, len(encoded.ids) * 2)


def _encoded(runtime: Runtime, body: TokenizeBody, text: str) -> Encoded:
    """Blocking. Raises InvalidRequest for messages that the chat template rejects."""
    special = body.add_special_tokens
    if body.messages is not None:
        settings = settings_of(runtime.registry, BASE if body.model is None else task_of(runtime, body.model))
        options = ChatOptions(
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=bool(body.continue_final_message),
            variables=body.chat_template_kwargs or {},
        )
        text = chat_prompt(
            runtime.backbone.tokenizer,
            body.messages,
            template=settings.chat_template,
            system_prompt=settings.system_prompt,
            options=options,
        )
        special = bool(special)
    return encode(runtime.backbone.tokenizer, text, special=special is not False)


@router.post("/detokenize", openapi_extra=documented(DetokenizeBody), response_model=DetokenizedText)
async def detokenize(request: Request) -> Response:
    """The text of tokens, special ones among them."""
    body = await parse(request, DetokenizeBody)
    runtime = runtime_of(request)
    check_model(runtime, body.model)
    check_known(runtime, body.tokens)
    tokenizer = runtime.backbone.tokenizer
    return await json_response(lambda: {"prompt": tokenizer.decode(body.tokens, skip_special=False)}, len(body.tokens))
