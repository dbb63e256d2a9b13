"""The bodies of `/v1/completions` and `/v1/chat/completions`, and what their fields are called here."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from manyhats.api.schemas import Many

# Fields of a request that are parameters here, under their own names.
_SAME = (
    "temperature", "top_p", "top_k", "min_p", "n", "stop", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "logit_bias", "seed", "response_format", "ignore_eos", "merged_adapters", "prompt_logprobs",
)  # fmt: skip
DEFAULTS = {"temperature": 1.0}


class Body(BaseModel):
    """Fields that are not known are taken and mean nothing, as OpenAI's own server has it."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1)
    stream: bool = False
    stream_options: dict[str, Any] | None = None


class CompletionBody(Body):
    """`POST /v1/completions`."""

    prompt: str | Many[str] | Many[int] | Many[Many[int]]
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool = False


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    messages: Many[dict[str, Any]]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


def parameters(body: Body, most: int | None) -> dict[str, Any]:
    """The parameters of a question. `most`: tokens of an answer, where the body says."""
    extra = body.model_extra or {}
    given = {name: extra[name] for name in _SAME if extra.get(name) is not None}
    if most is not None:
        given["max_new_tokens"] = most
    if given.get("top_k") == -1:  # vLLM's word for all
        del given["top_k"]
    if isinstance(given.get("n"), int) and given["n"] == 1:
        del given["n"]
    if extra.get("include_stop_str_in_output"):
        given["include_stop"] = True
    forms = extra.get("structured_outputs") or {}
    regex = extra.get("guided_regex") or forms.get("regex")
    schema = extra.get("guided_json") or forms.get("json")
    if regex is not None:
        given["regex"] = regex
    elif schema is not None:
        given["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return given
