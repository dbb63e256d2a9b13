"""What a request may ask of each kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manyhats.errors import InvalidRequest
from manyhats.registry.records import PoolingSetting

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_MOST_STOPS = 16
_PROMPTS = {"prompt", "prompt_name"}
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
    """Left out, the task's own pooling, normalisation and default prompt hold.

    `pooling`: one, or several whose vectors are put side by side; `none` gives every token's state. `prompt` goes
    before the text, `prompt_name` names one of the task's; an empty prompt is none.
    """

    pooling: PoolingSetting | None = None
    normalize: bool | None = None
    prompt: Annotated[str, Field(max_length=20_000)] | None = None
    prompt_name: Annotated[str, Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> EmbedParameters:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("either prompt or prompt_name")
        return self


class SpanParameters(Parameters):
    """`top_k`: that many answers, the best first. `max_answer_tokens`: longer ones are not considered."""

    top_k: Annotated[int, Field(ge=1, le=100)] | None = None
    max_answer_tokens: Annotated[int, Field(ge=1, le=1000)] = 30
    logits: bool = False


class FillParameters(Parameters):
    """`top_k`: that many tokens for each mask."""

    top_k: Annotated[int, Field(ge=1, le=100)] = 5


class GenerateParameters(Parameters):
    """See docs/generation.md. `temperature` 0 takes the likeliest token each time; `top_k` 0 leaves all.

    `max_new_tokens` may be 0 where `prompt_logprobs` are asked. `stream`: the answer comes piece by piece (the web
    layer's business). `include_stop`: the stop string stays in the text.
    """

    max_new_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 64
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(default_factory=dict, max_length=1000)
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    stop: Stop | list[Stop] = Field(default_factory=list, max_length=1000)
    include_stop: bool = False
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1, le=128)] = 1
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    regex: str | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _coherent(self) -> GenerateParameters:
        if len(self.stops) > _MOST_STOPS:
            raise ValueError(f"at most {_MOST_STOPS} stop strings")
        if self.max_new_tokens == 0 and self.prompt_logprobs is None:
            raise ValueError("max_new_tokens is 0, and nothing is asked about the prompt; set prompt_logprobs, or echo")
        if self.n > 1 and self.temperature == 0:
            raise ValueError("n texts are the same at temperature 0; set temperature")
        if self.regex is not None and self.response_format is not None:
            raise ValueError("either regex or response_format")
        for token in self.logit_bias:
            if not token.isdecimal():
                raise ValueError(f"logit_bias goes from token numbers to numbers, not from {token!r}")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings, one or many."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token."""
        return {int(token): value for token, value in self.logit_bias.items()}


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
    if given.keys() & _PROMPTS:  # of which only one can be
        defaults = {name: value for name, value in defaults.items() if name not in _PROMPTS}
    try:
        return model.model_validate({k: v for k, v in defaults.items() if k in model.model_fields} | dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        where = f"parameters.{name}" if name else "parameters"
        got = f" (got {first['input']!r})" if name else ""
        raise InvalidRequest(f"{where}: {first['msg']}{got}", param=where) from None
