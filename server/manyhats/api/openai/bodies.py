"""The bodies of `/v1/completions` and `/v1/chat/completions`, and what their fields are called here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from manyhats.api.known_fields import (
    CHANGE_ANSWERS,
    FOLLOWED,
    HARMLESS,
    add_parameter,
    reject_unsupported,
    translate,
)
from manyhats.api.schemas import Many, Timeout
from manyhats.backbone import Text
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.errors import InvalidRequest
from manyhats.serving.chat import ChatOptions

# Parameters that hold where neither the task nor the request says otherwise.
DEFAULTS: Mapping[str, Any] = {"temperature": 1.0}
COMPLETION_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "max_new_tokens": 16}
CHAT_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "max_new_tokens": 1_000_000}  # as many as the context allows

_STRUCTURED_FIELDS = ("json", "regex", "choice", "grammar", "json_object")  # of `structured_outputs`


# Fields that are read as parameters, whose errors then have the request's own names for them.
_Count = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "null"}]})]
_Message = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "role": {"type": "string"},
                "content": {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "object", "additionalProperties": True}},
                        {"type": "null"},
                    ]
                },
            },
            "required": ["role"],
            "additionalProperties": True,
        }
    ),
]


class StreamOptions(BaseModel):
    """What a stream has besides its text."""

    model_config = ConfigDict(extra="allow")

    include_usage: StrictBool | None = None


class Body(BaseModel):
    """Fields that are not known are taken and mean nothing, as OpenAI's own server has it.

    What is not declared here is a parameter, or stands in `api.known_fields`.
    """

    model_config = ConfigDict(extra="allow")

    model: StrictStr = Field(min_length=1)
    stream: StrictBool | None = None
    timeout: Timeout | None = None
    stream_options: StreamOptions | None = None
    n: _Count = None
    best_of: _Count = None
    max_tokens: _Count = None
    prompt_logprobs: _Count = None
    guided_json: Any = None
    json_schema: Any = None
    grammar: Any = None
    structured_outputs: dict[str, Any] | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """With the parameters that are followed under their own or other names."""
        reference = handler(schema)
        properties = handler.resolve_ref_schema(reference)["properties"]
        parameters = GenerateParameters.model_json_schema()["properties"]
        for name, parameter in FOLLOWED.items():
            if parameter in parameters:
                form = {key: value for key, value in parameters[parameter].items() if key not in ("default", "title")}
                properties.setdefault(name, form)
        return reference


def _prompt(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        raise PydanticCustomError(
            "prompt", "a prompt is a text, a list of texts, a list of token numbers, or a list of such lists"
        ) from None


Prompt = Annotated[StrictStr | Many[StrictStr] | Many[StrictInt] | Many[Many[StrictInt]], WrapValidator(_prompt)]


def read_prompt(
    prompt: str | list[str] | list[int] | list[list[int]], name: str
) -> tuple[list[Text], list[list[int]] | None]:
    """Texts, or tokens. `name`: the field's. Raises InvalidRequest for neither."""
    if isinstance(prompt, str):
        return [Text(prompt)], None
    if not prompt:
        raise InvalidRequest(f"'{name}' is empty; give a text or tokens, or a list of either", param=name)
    texts = [Text(one) for one in prompt if isinstance(one, str)]
    if texts:
        return texts, None
    tokens = [one for one in prompt if isinstance(one, int)]
    return [], [tokens] if tokens else [one for one in prompt if isinstance(one, list)]


class CompletionBody(Body):
    """`POST /v1/completions`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "stories", "prompt": "Once", "max_tokens": 16, "temperature": 0.7}]}
    )

    prompt: Prompt
    logprobs: _Count = None
    echo: StrictBool | None = None


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "stories", "messages": [{"role": "user", "content": "Good day"}], "max_tokens": 64}]
        }
    )

    messages: Many[_Message]
    max_completion_tokens: _Count = None
    logprobs: StrictBool | None = None
    top_logprobs: _Count = None
    add_generation_prompt: StrictBool | None = None
    continue_final_message: StrictBool | None = None
    add_special_tokens: StrictBool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Many[dict[str, Any]] | None = None
    tools: Many[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: Many[Any] | None = None
    function_call: str | dict[str, Any] | None = None


class Given(NamedTuple):
    """The parameters of a request, and what it called each of them."""

    parameters: dict[str, Any]
    names: dict[str, str]


def completion_parameters(body: CompletionBody) -> Given:
    """What a completion asks for. Raises InvalidRequest for what is not supported, by name."""
    found = _common(body)
    if body.logprobs is True:
        raise InvalidRequest("logprobs: give how many of the likeliest tokens are returned, not true", param="logprobs")
    if body.logprobs is not None and body.logprobs is not False:
        add_parameter(found, "logprobs", "logprobs", body.logprobs)
    if body.max_tokens is not None:
        add_parameter(found, "max_new_tokens", "max_tokens", body.max_tokens)
    if body.echo and ("logprobs" in found or body.max_tokens == 0):  # of the prompts' tokens too
        numbers = [n for n in (body.logprobs, body.prompt_logprobs) if isinstance(n, int)]
        found["prompt_logprobs"] = ("logprobs", max(numbers, default=0))
    return _given(found)


def chat_parameters(body: ChatBody) -> Given:
    """What a chat asks for. Raises InvalidRequest for what is not supported, by name."""
    found = _common(body)
    _reject_tools("tools", body.tools, "tool_choice", body.tool_choice)
    _reject_tools("functions", body.functions, "function_call", body.function_call)
    if body.logprobs:
        add_parameter(found, "logprobs", "top_logprobs", 0 if body.top_logprobs is None else body.top_logprobs)
    elif body.top_logprobs not in (None, 0):
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
    for name in ("max_completion_tokens", "max_tokens"):
        value = getattr(body, name)
        if value is not None:
            add_parameter(found, "max_new_tokens", name, value)
    return _given(found)


def chat_options(body: ChatBody) -> ChatOptions:
    """How the messages become a prompt. Raises InvalidRequest for what contradicts itself."""
    options = ChatOptions(
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=bool(body.continue_final_message),
        variables=body.chat_template_kwargs or {},
        documents=body.documents,
        add_special_tokens=bool(body.add_special_tokens),
    )
    options.check()
    return options


def _common(body: Body) -> dict[str, tuple[str, Any]]:
    fields = body.model_extra or {}
    reject_unsupported(fields, FOLLOWED)
    if body.stream_options is not None:
        reject_unsupported(body.stream_options.model_extra)
    found = translate(fields)
    if found.get("top_k", ("", None))[1] == -1:  # vLLM's word for all
        del found["top_k"]
    for name, value in (("n", body.n), ("prompt_logprobs", body.prompt_logprobs)):
        if value is not None:
            add_parameter(found, name, name, value)
    if body.best_of not in (None, 1, body.n) or isinstance(body.best_of, bool):
        raise InvalidRequest("'best_of' is not supported but where it is 'n'; leave it out", param="best_of")
    for name, (parameter, value) in _structured_output(body).items():
        add_parameter(found, parameter, name, value)
    return found


def _structured_output(body: Body) -> dict[str, tuple[str, Any]]:
    """What the answer looks like, by the fields of vLLM, SGLang, TGI and llama.cpp: each as a parameter."""
    found: dict[str, tuple[str, Any]] = {}
    for name in ("guided_json", "json_schema"):
        if getattr(body, name) is not None:
            found[name] = ("response_format", _schema_format(getattr(body, name), name))
    if body.grammar is not None:
        found["grammar"] = ("grammar" if isinstance(body.grammar, str) else "response_format", body.grammar)
    wanted = body.structured_outputs or {}
    reject_unsupported(wanted, _STRUCTURED_FIELDS)
    for name, value in wanted.items():
        where = f"structured_outputs.{name}"
        if value is None or name in HARMLESS or (name in CHANGE_ANSWERS and name not in _STRUCTURED_FIELDS):
            continue
        if name not in _STRUCTURED_FIELDS:
            raise InvalidRequest(f"{where} is not supported; these are: {', '.join(_STRUCTURED_FIELDS)}", param=where)
        if name == "json":
            found[where] = ("response_format", _schema_format(value, where))
        elif name != "json_object":
            found[where] = (name, value)
        elif value is True:
            found[where] = ("response_format", {"type": "json_object"})
        elif value is not False:
            raise InvalidRequest(f"{where} is true or false", param=where)
    return found


def _schema_format(schema: Any, name: str) -> dict[str, Any]:
    """A JSON schema, as an object or as its text."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise InvalidRequest(f"{name} is not valid JSON", param=name) from None
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _reject_tools(name: str, tools: list[Any] | None, choice_name: str, choice: Any) -> None:
    """Tools that may not be called change nothing."""
    if choice in (None, "auto") and not tools:
        return
    if choice != "none":
        which, value = (name, "") if tools else (choice_name, f" {choice!r}" if isinstance(choice, str) else "")
        raise InvalidRequest(
            f"'{which}'{value} is not supported; leave it out or give {choice_name} \"none\"", param=which
        )


def _given(found: Mapping[str, tuple[str, Any]]) -> Given:
    return Given(
        {parameter: value for parameter, (_, value) in found.items()},
        {parameter: name for parameter, (name, _) in found.items()},
    )
