"""The bodies of requests and answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from manyhats.backbone import Text
from manyhats.core.kinds.registry import KINDS

T = TypeVar("T")
_DAY = 86_400  # seconds
# The first wrong item ends it: an error for each of a million would take seconds and gigabytes.
Many = Annotated[list[T], Field(fail_fast=True)]


# How long an answer is waited for, in seconds. `api.body.parse` has the call end then.
Timeout = Annotated[float, Field(strict=True, gt=0, le=_DAY, description="seconds, after which the answer is 504")]


class Body(BaseModel):
    """A field that is not understood is an error, never ignored."""

    model_config = ConfigDict(extra="forbid")


class TextInput(Body):
    """A text, or a pair of them (question and context, premise and hypothesis)."""

    text: StrictStr
    text_pair: StrictStr | None = None


OneInput = StrictStr | TextInput
Inputs = OneInput | Many[OneInput]


def _none(value: Any) -> Any:
    return {} if value is None else value


class _ByKind:
    """In /openapi.json, what a request's parameters are. They are read later, when the task's kind is known."""

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        union: Any = reduce(or_, (kind.parameters for kind in KINDS.values()))
        return handler(TypeAdapter(union).core_schema)


# null stands for none at all
ParametersBody = Annotated[dict[str, Any], BeforeValidator(_none), Field(default_factory=dict), _ByKind()]


class Question(Body):
    """What a task is asked."""

    inputs: Inputs
    parameters: ParametersBody


class PredictBody(Question):
    """`POST /v1/tasks/{task}/predict`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": ["a text", "another"], "parameters": {"top_k": 3}},
                {"inputs": {"text": "who?", "text_pair": "Ada wrote it."}},
            ]
        }
    )

    timeout: Timeout | None = None


class PredictItem(Question):
    """One item of `requests`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"task": "spam@canary", "inputs": "a text"}]})

    task: StrictStr


class PredictManyBody(Body):
    """`POST /v1/predict`: either `requests`, or `tasks` with `inputs`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"requests": [{"task": "spam", "inputs": "a text"}, {"task": "topic@2", "inputs": ["one", "two"]}]},
                {"tasks": ["spam", "topic"], "inputs": "a text"},
            ]
        }
    )

    requests: Many[PredictItem] | None = None
    tasks: Many[StrictStr] | None = None
    inputs: Inputs | None = None
    parameters: ParametersBody
    timeout: Timeout | None = None


class SplitTarget(Body):
    """One version of an alias's split."""

    version: StrictInt
    weight: Annotated[StrictInt | StrictFloat, Field(gt=0, le=1e9)]


class AliasBody(Body):
    """`PUT /v1/tasks/{task}/aliases/{alias}`: either `version` or `split`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"version": 3}, {"split": [{"version": 2, "weight": 90}, {"version": 3, "weight": 10}]}]
        }
    )

    version: StrictInt | None = None
    split: Many[SplitTarget] | None = None


class RollbackBody(Body):
    """`POST /v1/tasks/{task}/rollback`: back to the version before, or to `version`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"version": 2}]})

    version: StrictInt | None = None


class SettingsBody(Body):
    """`PUT /v1/tasks/{task}`. What is given replaces what was; null goes back to the adapter's own."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"labels": ["ham", "spam"], "priority": 1, "pinned": True}]}
    )

    kind: StrictStr | None = None
    labels: Many[StrictStr] | None = None
    template: StrictStr | None = None
    max_tokens: StrictInt | None = None
    overflow: StrictStr | None = None
    pooling: StrictStr | Many[StrictStr] | None = None
    normalize: StrictBool | None = None
    prompts: dict[str, StrictStr] | None = None
    default_prompt_name: StrictStr | None = None
    include_prompt: StrictBool | None = None
    lower_case: StrictBool | None = None
    system_prompt: StrictStr | None = None
    chat_template: StrictStr | None = None
    stop_token_ids: Many[StrictInt] | None = None
    defaults: dict[str, Any] | None = None
    priority: StrictInt | None = None
    pinned: StrictBool | None = None


class ErrorInside(BaseModel):
    """What went wrong. `code` is the status; `param` names the field or file at fault, where there is one."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"error": {"message": "there is no task 'x'", "type": "NotFoundError", "param": "task", "code": 404}}
            ]
        }
    )

    error: ErrorInside


class AnswerBody(BaseModel):
    """The form of an answer, for /openapi.json: it is written, and never parsed."""


class WarningBody(AnswerBody):
    """What an answer warns of. `input`: the index of the input."""

    input: int
    code: str
    message: str


def texts(inputs: Inputs) -> Sequence[Text]:
    """The inputs of a body, one or many, as texts."""
    many = inputs if isinstance(inputs, list) else [inputs]
    return [Text(one) if isinstance(one, str) else Text(one.text, one.text_pair) for one in many]
