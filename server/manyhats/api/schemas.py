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
from manyhats.errors import InvalidRequest
from manyhats.registry.records import Target
from manyhats.registry.rollout import MAX_REQUESTS, MAX_WINDOW, Canary, Rollout, Shadow

T = TypeVar("T")
Number = StrictInt | StrictFloat
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


# Of a split, the same value gets the same version.
AffinityValue = Annotated[StrictStr, Field(min_length=1, max_length=1000)] | None


class Question(Body):
    """What a task is asked."""

    inputs: Inputs
    parameters: ParametersBody
    affinity: AffinityValue = None


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
    affinity: AffinityValue = None
    timeout: Timeout | None = None


class SplitTarget(Body):
    """One version of an alias's split."""

    version: StrictInt
    weight: Annotated[Number, Field(gt=0, le=1e9)]


class ShadowBody(Body):
    """A version that is asked a `fraction` of the requests, after their answers. `tolerance`: how far two numbers, or
    two vectors' cosine from 1, may differ and still agree."""

    version: StrictInt
    fraction: Annotated[Number, Field(gt=0, le=1)]
    tolerance: Annotated[Number, Field(ge=0, le=1e9)] = 0.05


class CanaryBody(Body):
    """When a version of the split is withdrawn: a bound is passed by at least `min_requests` of the last
    `window_seconds`. At least one bound is given."""

    version: StrictInt
    max_error_rate: Annotated[Number, Field(ge=0, lt=1)] | None = None
    max_latency_ratio: Annotated[Number, Field(gt=0, le=1e9)] | None = None
    max_p95_ms: Annotated[Number, Field(gt=0, le=1e9)] | None = None
    min_requests: Annotated[StrictInt, Field(ge=1, le=MAX_REQUESTS)] = 100
    window_seconds: Annotated[Number, Field(gt=0, le=MAX_WINDOW)] = 300.0


class AliasBody(Body):
    """`PUT /v1/tasks/{task}/aliases/{alias}`: either `version` or `split`. What is left out of the rest is no more."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"version": 3},
                {"split": [{"version": 2, "weight": 90}, {"version": 3, "weight": 10}]},
                {"version": 2, "shadow": {"version": 3, "fraction": 0.1}},
                {
                    "split": [{"version": 2, "weight": 90}, {"version": 3, "weight": 10}],
                    "affinity": "X-User",
                    "canary": {"version": 3, "max_error_rate": 0.02, "max_latency_ratio": 1.5},
                },
            ]
        }
    )

    version: StrictInt | None = None
    split: Many[SplitTarget] | None = None
    affinity: Annotated[StrictStr, Field(min_length=1, max_length=100)] | None = None
    shadow: ShadowBody | None = None
    canary: CanaryBody | None = None

    def targets(self) -> list[Target]:
        """The versions that it names. Raises InvalidRequest for none, or for both ways of naming them."""
        if (self.version is None) == (self.split is None):
            raise InvalidRequest("give either 'version' or 'split'", param="version")
        if self.version is not None:
            return [Target(self.version)]
        return [Target(target.version, float(target.weight)) for target in self.split or []]

    def rollout(self) -> Rollout:
        """What the alias has besides its versions."""
        return Rollout(
            affinity=self.affinity,
            shadow=None if self.shadow is None else Shadow(**self.shadow.model_dump()),
            canary=None if self.canary is None else Canary(**self.canary.model_dump()),
        )


class GateBody(Body):
    """The part `gate` of an upload with `examples`. `max_drop`: how much worse than the stable version's the new one's
    value may be. `metric`: its name, to be sure."""

    max_drop: Annotated[Number, Field(ge=0, le=1e9)] = 0.0
    metric: Annotated[StrictStr, Field(max_length=100)] | None = None


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
