"""What a request may ask of each kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from manyhats.errors import InvalidRequest
from manyhats.messages import first_error, short_repr
from manyhats.registry.records import PoolingSetting

_PROMPTS = {"prompt", "prompt_name"}
Aggregation = Literal["none", "simple", "first", "average", "max", "word"]


_MOST_STOPS = 16
_MOST_BIASES = 1000
_MOST_STOP_TOKENS = 1000
_MOST_ALLOWED_TOKENS = 1 << 18
_MOST_WORDS = 1000
_MOST_CHOICES = 1000

_OWN_NAMES: Mapping[str, str] = {}

FORMS = ("response_format", "regex", "choice", "grammar")  # parameters that say what an answer looks like


def _integral(value: Any) -> Any:
    """JSON has one sort of number, and some clients write 3 as 3.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _at_most(most: int) -> Callable[[Any], Any]:
    """Refuses what is too long before its entries are looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, (list, dict)) and len(value) > most:
            raise PydanticCustomError(
                "too_long", "at most {most} entries, not {size}", {"most": most, "size": len(value)}
            )
        return value

    return check


def _stops(value: Any) -> Any:
    """One stop string or many; an empty one stops nothing."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = [one for one in value if one != ""]
        if len(value) > _MOST_STOPS:
            raise PydanticCustomError("too_long", "at most {most} stop strings", {"most": _MOST_STOPS})
    return value


def _token_name(value: str) -> str:
    if not (value.isascii() and value.isdigit() and len(value) <= 10):
        raise PydanticCustomError(
            "token_name", "goes from token numbers to numbers, not from {got}", {"got": short_repr(value)}
        )
    return value


Integer = Annotated[int, BeforeValidator(_integral)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
# Lists stop at the first entry that is wrong.
_FIRST = Field(fail_fast=True)
StopTokens = Annotated[list[Token], _FIRST, BeforeValidator(_at_most(_MOST_STOP_TOKENS))]
AllowedTokens = Annotated[list[Token], _FIRST, BeforeValidator(_at_most(_MOST_ALLOWED_TOKENS))]
Stops = Annotated[list[Annotated[str, Field(max_length=1000)]], _FIRST, BeforeValidator(_stops)]
Words = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]], _FIRST, BeforeValidator(_at_most(_MOST_WORDS))
]
Choices = Annotated[list[Annotated[str, Field(max_length=10_000)]], _FIRST, BeforeValidator(_at_most(_MOST_CHOICES))]
Biases = Annotated[
    dict[Annotated[str, AfterValidator(_token_name)], Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_at_most(_MOST_BIASES)),
]


class Parameters(BaseModel):
    """Common to all kinds. `truncate`: cut an input that is too long (and say so) rather than refuse it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

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
    layer's business). `include_stop`: the stop string, or the stop token that the request names, stays in the text. An
    integer may be written as 3.0; null leaves a parameter out.
    """

    max_new_tokens: Annotated[Integer, Field(ge=0, le=1_000_000)] = 64
    min_tokens: Annotated[Integer, Field(ge=0, le=1_000_000)] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_k: Annotated[Integer, Field(ge=0)] = 0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Biases = Field(default_factory=dict)
    allowed_token_ids: AllowedTokens | None = None
    bad_words: Words = Field(default_factory=list)
    seed: Annotated[Integer, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: Stops = Field(default_factory=list)
    stop_token_ids: StopTokens = Field(default_factory=list)
    include_stop: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    n: Annotated[Integer, Field(ge=1, le=128)] = 1
    logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    truncate_prompt_tokens: Annotated[Integer, Field(ge=-1, le=1 << 31)] | None = None
    truncation_side: Literal["left", "right"] = "left"
    response_format: dict[str, Any] | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _coherent(self) -> GenerateParameters:
        forms = [name for name in FORMS if getattr(self, name) is not None]
        if len(forms) > 1:
            raise ValueError(f"an answer has one form; {' and '.join(forms)} are given")
        if self.max_new_tokens == 0 and self.prompt_logprobs is None:
            raise ValueError("max_new_tokens is 0, and nothing is asked about the prompt; set prompt_logprobs, or echo")
        if self.min_tokens > self.max_new_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}, more than max_new_tokens, {self.max_new_tokens}")
        for name in ("choice", "allowed_token_ids"):
            if getattr(self, name) == []:
                raise ValueError(f"{name} is empty, which leaves nothing to write; leave it out")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens is 0, which leaves no prompt; give how many tokens are kept")
        return self

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token."""
        return {int(token): value for token, value in self.logit_bias.items()}

    @property
    def compiles(self) -> bool:
        """Whether something is made of them first that takes its time: a grammar, or a mask of the vocabulary."""
        forms = any(getattr(self, name) is not None for name in FORMS)
        return forms or bool(self.bad_words) or self.allowed_token_ids is not None

    def seed_of(self, index: int) -> int | None:
        """The seed of one of a prompt's texts, 0 to 2^64 - 1; None for another one each time, which -1 asks for too."""
        return None if self.seed in (None, -1) else (self.seed + index) % (1 << 64)


OF_KIND: dict[str, type[Parameters]] = {
    "classify": ClassifyParameters,
    "tokens": TokensParameters,
    "regress": RegressParameters,
    "span": SpanParameters,
    "embed": EmbedParameters,
    "generate": GenerateParameters,
    "fill": FillParameters,
}


def of_one_label(parameters: ClassifyParameters) -> ClassifyParameters:
    """For a head with one output, whose score is a sigmoid: over one label alone a softmax is always 1.

    Raises InvalidRequest where `multi_label` is false.
    """
    if "multi_label" in parameters.model_fields_set and not parameters.multi_label:
        raise InvalidRequest(
            "the head has one output, whose softmax is always 1; leave multi_label out, or set it to true",
            param="parameters.multi_label",
        )
    return parameters.model_copy(update={"multi_label": True})


def parse_parameters(
    kind: str, task: str, defaults: Mapping[str, Any], given: Mapping[str, Any], names: Mapping[str, str] = _OWN_NAMES
) -> Parameters:
    """The task's defaults with what the request gives over them; to generate, null stands for what is left out.

    `names`: what the caller calls a parameter. Raises InvalidRequest for a parameter that the kind does not have,
    naming those that it has.
    """
    model = OF_KIND[kind]
    for name in given:
        if name not in model.model_fields:
            raise InvalidRequest(
                f"the task `{task}` is of kind '{kind}', which has no parameter '{name}'; "
                f"it has {', '.join(model.model_fields)}",
                param=f"parameters.{name}",
            )
    if model is GenerateParameters:
        given = {name: value for name, value in given.items() if value is not None}
        defaults = {name: value for name, value in defaults.items() if value is not None}
    if any(name in given for name in FORMS):  # the request's form takes the place of the task's
        defaults = {name: value for name, value in defaults.items() if name not in FORMS}
    if given.keys() & _PROMPTS:  # of which only one can be
        defaults = {name: value for name, value in defaults.items() if name not in _PROMPTS}
    try:
        return model.model_validate({k: v for k, v in defaults.items() if k in model.model_fields} | dict(given))
    except ValidationError as error:
        first = first_error(error, with_input=True)
        name = str(first.location[0]) if first.location else ""
        where = names.get(name, f"parameters.{name}") if name else "parameters"
        got = f" (got {short_repr(first.input)})" if name else ""
        raise InvalidRequest(f"{where}: {first.reason}{got}", param=where) from None
