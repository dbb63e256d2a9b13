"""TEI's form of `/tokenize`, and `/decode`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, RootModel, StrictBool, StrictInt, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.json_response import json_response
from manyhats.api.schemas import AnswerBody, Many
from manyhats.api.shaped_route import TYPED_ERRORS, shaped_route
from manyhats.api.state import runtime_of
from manyhats.api.tei.bodies import TeiBody
from manyhats.api.tei.errors import error_body
from manyhats.api.tokenising import check_known, check_length, check_model, encode
from manyhats.errors import TooLarge
from manyhats.serving.threads import SMALL_TEXT, at_once_if

router = APIRouter(
    tags=["tei"],
    dependencies=[Depends(require_predict)],
    route_class=shaped_route(error_body),
    responses=TYPED_ERRORS,
)

_FIELDS = 8  # values: the cost of a token's object


class TeiTokenizeBody(TeiBody):
    """`POST /tokenize` in TEI's form."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["a text", "another"]}]})

    inputs: StrictStr | Many[StrictStr]
    add_special_tokens: StrictBool | None = None


class SimpleToken(AnswerBody):
    """A token. `start`, `stop`: its characters in the text; null for those that the tokenizer added."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TokensOfTexts(RootModel[list[list[SimpleToken]]]):
    """The tokens of each text."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [[[{"id": 64, "text": "a", "special": False, "start": 0, "stop": 1}]]]}
    )


class DecodeBody(TeiBody):
    """`POST /decode`: tokens of one text, or of several."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [64, 311]}]})

    ids: Many[StrictInt] | Many[Many[StrictInt]]
    skip_special_tokens: StrictBool | None = None


class DecodedTexts(RootModel[list[str]]):
    """The text of each list of tokens."""

    model_config = ConfigDict(json_schema_extra={"examples": [["a text"]]})


async def answer_tokens(request: Request) -> Response:
    """The tokens of texts, as the backbone reads them. Raises ManyhatsError."""
    body = await parse(request, TeiTokenizeBody)
    body.parameters(request)
    runtime = runtime_of(request)
    check_model(runtime, body.task)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if len(texts) > runtime.settings.max_inputs:
        raise TooLarge(
            f"there are {len(texts)} inputs; at most {runtime.settings.max_inputs} in one call", param="inputs"
        )
    for text in texts:
        check_length(runtime, text, "inputs")
    tokenizer, special = runtime.backbone.tokenizer, body.add_special_tokens is not False
    small = sum(map(len, texts)) <= SMALL_TEXT
    encoded = await at_once_if(
        small, lambda: [encode(tokenizer, text, special=special) for text in texts], runtime.threads.tokenising
    )

    def answer() -> list[list[dict[str, Any]]]:
        return [
            [
                {
                    "id": token,
                    "text": tokenizer.token_to_string(token),
                    "special": bool(added),
                    "start": None if added else start,
                    "stop": None if added else stop,
                }
                for token, added, (start, stop) in zip(one.ids, one.special, one.offsets, strict=True)
            ]
            for one in encoded
        ]

    return await json_response(answer, sum(len(one.ids) for one in encoded) * _FIELDS)


@router.post("/decode", openapi_extra=documented(DecodeBody), response_model=DecodedTexts)
async def decode(request: Request) -> Response:
    """The texts of tokens."""
    body = await parse(request, DecodeBody)
    body.parameters(request)
    runtime = runtime_of(request)
    check_model(runtime, body.task)
    several = [one for one in body.ids if isinstance(one, list)] or [[one for one in body.ids if isinstance(one, int)]]
    for ids in several:
        check_known(runtime, ids)
    skip, tokenizer = body.skip_special_tokens is not False, runtime.backbone.tokenizer
    size = sum(map(len, several))
    return await json_response(lambda: [tokenizer.decode(ids, skip_special=skip) for ids in several], size)
