"""What a request may ask of each kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manyhats.errors import InvalidRequest

Pooling = Literal["mean", "cls", "last", "none"]
Aggregation = Literal["none", "simple", "first", "average", "max", "word"]


class Parameters(BaseModel):
    """Common to all kinds. `truncate`: cut an input that is too long (and say so) rather than refuse it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    truncate: bool | None = None


class ClassifyParameters(Parameters):
    """`top_k`: only the k best labels in `scores`. `multi_label`: each label by itself (sigmoid)."""

    logits: bool = False
    top_k: Annotated[int, Field(ge=1)] | None = None
    multi_label: bool = False


class TokensParameters(Parameters):
    """`aggregation`: how tokens become entities (see `outputs`)."""

    logits: bool = False
    aggregation: Aggregation = "simple"


class RegressParameters(Parameters):
    """Nothing further."""


class EmbedParameters(Parameters):
    """Left out, the task's own pooling and normalisation hold."""

    pooling: Pooling | None = None
    normalize: bool | None = None


class SpanParameters(Parameters):
    """`top_k`: that many answers, the best first. `max_answer_tokens`: longer ones are not considered."""

    top_k: Annotated[int, Field(ge=1, le=100)] | None = None
    max_answer_tokens: Annotated[int, Field(ge=1, le=1000)] = 30
    logits: bool = False


class FillParameters(Parameters):
    """`top_k`: that many tokens for each mask."""

    top_k: Annotated[int, Field(ge=1, le=100)] = 5


class GenerateParameters(Parameters):
    """The likeliest token at every step; `temperature` may be given as 0, which says so."""

    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 64
    temperature: Annotated[float, Field(ge=0, le=0)] = 0.0


OF_KIND: dict[str, type[Parameters]] = {
    "classify": ClassifyParameters,
    "tokens": TokensParameters,
    "regress": RegressParameters,
    "span": SpanParameters,
    "embed": EmbedParameters,
    "generate": GenerateParameters,
    "fill": FillParameters,
}


def parse_parameters(kind: str, task: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Parameters:
    """The task's defaults with what the request gives over them.

    Raises InvalidRequest for a parameter that the kind does not have, naming those that it has.
    """
    model = OF_KIND[kind]
    for name in given:
        if name not in model.model_fields:
            raise InvalidRequest(
                f"the task `{task}` is of kind '{kind}', which has no parameter '{name}'; "
                f"it has {', '.join(model.model_fields)}",
                param=f"parameters.{name}",
            )
    try:
        return model.model_validate({k: v for k, v in defaults.items() if k in model.model_fields} | dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            f"parameters.{name}: {first['msg']} (got {first['input']!r})", param=f"parameters.{name}"
        ) from None
