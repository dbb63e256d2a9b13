"""How well documents answer queries: by a cross-encoder's score, or by the cosine of two vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from fastapi import Request
from pydantic import BaseModel, StrictStr

from manyhats.api.model_names import task_of, unknown_model
from manyhats.api.pooled import RELEVANCE, VECTORS, predict, vectors
from manyhats.api.schemas import Many
from manyhats.api.state import runtime_of
from manyhats.backbone import Text
from manyhats.core.kinds.base import Kind
from manyhats.core.kinds.registry import KINDS
from manyhats.core.vectors import unit_vectors
from manyhats.errors import NotFound
from manyhats.registry.names import BASE
from manyhats.runtime import Runtime
from manyhats.serving.inference import InferenceResponse
from manyhats.serving.task_views import settings_of


class Scores(NamedTuple):
    """A score for each pair, larger is better, and the answer that they are from."""

    values: list[float]
    result: InferenceResponse


class Compared(BaseModel):
    """A text, and others to compare it with."""

    source_sentence: StrictStr
    sentences: Many[StrictStr]


async def relevance(
    request: Request,
    model: str | None,
    queries: Sequence[str],
    documents: Sequence[str],
    parameters: dict[str, Any],
    *,
    raw: bool = False,
    field: str = "documents",
) -> Scores:
    """Scores of pairs; one query stands for all documents.

    `raw`: the head's outputs instead of their sigmoids. Raises ManyhatsError.
    """
    if kind_of(runtime_of(request), model).name in VECTORS:
        return await cosines(request, model, queries, documents, parameters, field=field)
    pairs = [Text(queries[i if len(queries) > 1 else 0], one) for i, one in enumerate(documents)]
    parameters = parameters | {"raw_scores": True} if raw else parameters
    result = await predict(request, model, pairs, parameters, kinds=RELEVANCE, field=field)
    return Scores([output["score"] for output in result.outputs], result)


async def cosines(
    request: Request,
    model: str | None,
    queries: Sequence[str],
    documents: Sequence[str],
    parameters: dict[str, Any],
    *,
    field: str,
) -> Scores:
    """The cosines of pairs' vectors; one query stands for all documents. Raises ManyhatsError."""
    texts = [Text(one) for one in (*queries, *documents)]
    result = await predict(request, model, texts, parameters, kinds=VECTORS, field=field)
    unit = unit_vectors(np.stack(vectors(result)))
    values: list[float] = (unit[: len(queries)] * unit[len(queries) :]).sum(axis=1).tolist()
    return Scores(values, result)


def best_first(scores: Sequence[float]) -> list[int]:
    """The places of scores, the largest first, equal ones as they come."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def kind_of(runtime: Runtime, model: str | None) -> Kind[Any]:
    """The kind of the task that `model` names; for the bare backbone, that of vectors. Raises NotFound."""
    task = BASE if model is None else task_of(runtime, model)
    try:
        kind = settings_of(runtime.registry, task).kind
    except NotFound:
        raise unknown_model(model or BASE) from None
    return KINDS[kind or VECTORS[0]]
