"""What `/predict` answers, for /openapi.json: by the task's kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from manyhats.api.answers import SHA256, examples
from manyhats.api.outputs import (
    CLASSIFIED,
    ClassifyOutput,
    EmbedOutput,
    FillOutput,
    GenerateOutput,
    RegressOutput,
    RerankOutput,
    SpanOutput,
    TokenLogprob,
    TokensOutput,
)
from manyhats.api.schemas import AnswerBody, ErrorInside, WarningBody


class TokenCounts(AnswerBody):
    """Tokens that were read and written."""

    input_tokens: int
    output_tokens: int


class Timing(AnswerBody):
    """Milliseconds in the queue, for loading the adapter, and in the model."""

    queue_ms: float
    load_ms: float
    compute_ms: float


class BatchBody(AnswerBody):
    """The pass that answered, and how many shared it."""

    id: int
    sequences: int
    tasks: int
    methods: list[str]


_PREDICTION: dict[str, Any] = {
    "id": "pred-0f0e0d0c0b0a09080706050403020100",
    "task": "spam",
    "version": 3,
    "sha256": SHA256,
    "kind": "classify",
    "outputs": [CLASSIFIED],
    "usage": {"input_tokens": 6, "output_tokens": 0},
    "timing": {"queue_ms": 0.2, "load_ms": 0.0, "compute_ms": 4.1},
    "batch": {"id": 17, "sequences": 4, "tasks": 3, "methods": ["ia3", "lora"]},
}


class PredictionFields(AnswerBody):
    """What the answer of a task has, whatever its kind."""

    id: str
    task: str
    version: int
    sha256: str
    usage: TokenCounts
    timing: Timing
    batch: BatchBody
    warnings: list[WarningBody] | None = None


class ClassifyPrediction(PredictionFields):
    """Of a task of kind `classify`."""

    kind: Literal["classify"]
    outputs: list[ClassifyOutput]


class TokensPrediction(PredictionFields):
    """Of a task of kind `tokens`."""

    kind: Literal["tokens"]
    outputs: list[TokensOutput]


class RegressPrediction(PredictionFields):
    """Of a task of kind `regress`."""

    kind: Literal["regress"]
    outputs: list[RegressOutput]


class RerankPrediction(PredictionFields):
    """Of a task of kind `rerank`."""

    kind: Literal["rerank"]
    outputs: list[RerankOutput]


class SpanPrediction(PredictionFields):
    """Of a task of kind `span`."""

    kind: Literal["span"]
    outputs: list[SpanOutput]


class EmbedPrediction(PredictionFields):
    """Of a task of kind `embed`."""

    kind: Literal["embed"]
    outputs: list[EmbedOutput]


class GeneratePrediction(PredictionFields):
    """Of a task of kind `generate`."""

    kind: Literal["generate"]
    outputs: list[GenerateOutput]


class FillPrediction(PredictionFields):
    """Of a task of kind `fill`."""

    kind: Literal["fill"]
    outputs: list[FillOutput]


class Prediction(
    RootModel[
        Annotated[
            ClassifyPrediction
            | TokensPrediction
            | RegressPrediction
            | RerankPrediction
            | SpanPrediction
            | EmbedPrediction
            | GeneratePrediction
            | FillPrediction,
            Field(discriminator="kind"),
        ]
    ]
):
    """The answer of one task, an output for each input in their order; `kind` says which outputs these are."""

    model_config = examples(_PREDICTION)


class PredictionEvent(AnswerBody):
    """With `stream`: one token of the output for `input`. Behind the last one the whole answer follows, then `[DONE]`.

    `choice`: with `n`, which of an input's texts.
    """

    model_config = examples({"input": 0, "text": " upon", "tokens": [2501], "finish_reason": None})

    input: int
    text: str
    tokens: list[int]
    finish_reason: Literal["stop", "length"] | None
    choice: int | None = None
    logprobs: list[TokenLogprob] | None = None


class FailedPrediction(AnswerBody):
    """An item that failed, in its place."""

    task: str
    error: ErrorInside


class PredictionList(AnswerBody):
    """An answer for each item, in the order asked."""

    model_config = examples(
        {
            "results": [
                _PREDICTION,
                {
                    "task": "nobody",
                    "error": {
                        "message": "there is no task 'nobody'",
                        "type": "NotFoundError",
                        "param": "task",
                        "code": 404,
                    },
                },
            ]
        }
    )

    results: list[Prediction | FailedPrediction]
