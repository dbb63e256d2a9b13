"""`/classify`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, StrictBool

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.direct_route import DirectRoute
from manyhats.api.json_response import json_response
from manyhats.api.known_fields import user_of
from manyhats.api.lorax_pooled import Entities, TextBody, answer_entities
from manyhats.api.openai.bodies import Prompt, read_prompt
from manyhats.api.pooled import LABELS, PooledBody, predict, truncation
from manyhats.api.schemas import AnswerBody
from manyhats.api.shaped_route import TYPED_ERRORS
from manyhats.api.vllm.answers import USAGE, AnswerList, answer_list
from manyhats.serving.inference import InferenceResponse

router = APIRouter(tags=["vllm"], dependencies=[Depends(require_predict)], route_class=DirectRoute)


class ClassifyForm(BaseModel):
    """Whose form a request has."""

    model_config = ConfigDict(extra="ignore")

    inputs: Any = None


class ClassifyBody(PooledBody):
    """`POST /classify`. `use_activation`: false gives the head's own outputs."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "spam", "input": ["You have won!", "See you."]}]}
    )

    input: Prompt
    use_activation: StrictBool | None = None


class Classification(AnswerBody):
    """One input's label, and the values of all of them in the order of their indices."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassificationList(AnswerList):
    """The answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "classify-292fa72e96d9450ab7fc39019eff37be",
                    "object": "list",
                    "created": 1764230400,
                    "model": "spam",
                    "data": [{"index": 0, "label": "spam", "probs": [0.1, 0.9], "num_classes": 2}],
                    "usage": USAGE,
                }
            ]
        }
    )

    data: list[Classification]


@router.post(
    "/classify",
    openapi_extra=documented(ClassifyBody, TextBody),
    response_model=ClassificationList | Entities,
    responses=TYPED_ERRORS,  # of LoRAX's form
)
async def classify(request: Request) -> Response:
    """Labels of texts, by a task of kind `classify`.

    LoRAX's form, with `inputs` in the place of `input`, gets entities, by a task of kind `tokens`.
    """
    if "inputs" in (await parse(request, ClassifyForm)).model_fields_set:
        return await answer_entities(request)
    body = await parse(request, ClassifyBody)
    body.check()
    texts, tokens = read_prompt(body.input, "input")
    raw = body.use_activation is False
    parameters = truncation(body, request) | {"logits": raw, "top_k": None}
    user = user_of(body.model_extra)
    result = await predict(request, body.model, texts, parameters, kinds=LABELS, tokens=tokens, affinity=user)
    return await json_response(lambda: _answer(body, result, raw), result.size)


def _answer(body: ClassifyBody, result: InferenceResponse, raw: bool) -> dict[str, Any]:
    data = [
        {"index": i, "label": output["label"], "probs": values, "num_classes": len(values)}
        for i, output in enumerate(result.outputs)
        for values in [probabilities(output, raw)]
    ]
    return answer_list("classify", body.model, data, result)


def probabilities(output: dict[str, Any], raw: bool) -> list[float]:
    """The values of all labels in the order of their indices."""
    return output["logits"] if raw else list(output["scores"].values())
