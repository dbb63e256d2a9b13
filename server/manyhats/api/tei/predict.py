"""`/predict`: labels of texts and of pairs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ConfigDict, Field, RootModel, StrictBool, StrictStr

from manyhats.api.auth import require_predict
from manyhats.api.body import documented, parse
from manyhats.api.json_response import json_response
from manyhats.api.labels import SCORED, LabelScore, label_scores, scoring_parameters
from manyhats.api.pooled import predict
from manyhats.api.relevance import kind_of
from manyhats.api.schemas import Many
from manyhats.api.shaped_route import TYPED_ERRORS, shaped_route
from manyhats.api.state import runtime_of
from manyhats.api.tei.bodies import TeiBody
from manyhats.api.tei.errors import error_body
from manyhats.backbone import Text
from manyhats.errors import InvalidRequest

router = APIRouter(
    tags=["tei"],
    dependencies=[Depends(require_predict)],
    route_class=shaped_route(error_body),
    responses=TYPED_ERRORS,
)

_Pair = Annotated[list[StrictStr], Field(min_length=1, max_length=2, fail_fast=True)]


class PredictLabelsBody(TeiBody):
    """`POST /predict`. `inputs`: a text, a pair of texts, or a list of lists of one or two texts each.

    `raw_scores`: the head's own outputs.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": [["a text"], ["another"]], "model": "spam"}]})

    inputs: StrictStr | _Pair | Many[_Pair]
    raw_scores: StrictBool | None = None


class Predictions(RootModel[list[LabelScore] | list[list[LabelScore]]]):
    """The labels with their scores, the best first; a list of them for each input of a batch."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [[{"label": "spam", "score": 0.9}, {"label": "ham", "score": 0.1}]]}
    )


@router.post("/predict", openapi_extra=documented(PredictLabelsBody), response_model=Predictions)
async def predict_labels(request: Request) -> Response:
    """Labels of texts or of pairs, by a task with a head over whole texts."""
    body = await parse(request, PredictLabelsBody)
    given = body.inputs
    if not given:
        raise InvalidRequest("'inputs' is empty", param="inputs")
    batch = [one for one in given if isinstance(one, list)] if isinstance(given, list) else []
    single = [given] if isinstance(given, str) else [one for one in given if isinstance(one, str)]
    raw = bool(body.raw_scores)
    kind = kind_of(runtime_of(request), body.task).name
    parameters = body.parameters(request) | scoring_parameters(kind, raw=raw)
    texts = [Text(*one) for one in batch or [single]]
    result = await predict(request, body.task, texts, parameters, kinds=SCORED, field="inputs")

    def answer() -> list[object]:
        found = [label_scores(output, raw=raw) for output in result.outputs]
        return list(found) if batch else list(found[0])

    return await json_response(answer, result.size)
