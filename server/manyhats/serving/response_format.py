"""Structured output: from the parameters, in the forms of several servers, to a grammar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manyhats.core.kinds.generate import GenerateParameters
from manyhats.engine.structured_output import Grammar, Grammars
from manyhats.errors import InvalidRequest
from manyhats.messages import short_repr

_PARAM = "response_format"
_TYPES = "text, json_object, json_schema, regex, grammar"


def grammar_of(parameters: GenerateParameters, grammars: Callable[[], Grammars]) -> Grammar | None:
    """The grammar of an answer; None for any text.

    `grammars`: called where one is needed. Raises InvalidRequest for an invalid form.
    """
    if parameters.regex is not None:
        return grammars().regex(parameters.regex)
    if parameters.choice is not None:
        return grammars().choice(parameters.choice)
    if parameters.grammar is not None:
        return grammars().grammar(parameters.grammar)
    if parameters.response_format is not None:
        return _from_response_format(parameters.response_format, grammars)
    return None


def _from_response_format(wanted: Mapping[str, Any], grammars: Callable[[], Grammars]) -> Grammar | None:
    """OpenAI's `response_format`, LoRAX's with a `schema` beside the type, and TGI's `grammar` with a `value`."""
    match wanted.get("type"):
        case "text":
            return None
        case "json_object" | "json":
            schema = _one_of(wanted, "schema", "value")
            return grammars().json_object() if schema is None else grammars().json_schema(schema)
        case "json_schema":
            inner = _one_of(wanted, "json_schema", "value")
            schema = wanted.get("schema") if inner is None else inner.get("schema") if isinstance(inner, dict) else None
            if schema is None:
                raise InvalidRequest(
                    "response_format of type json_schema needs {'json_schema': {'schema': ...}}", param=_PARAM
                )
            return grammars().json_schema(schema)
        case "regex":
            return grammars().regex(_text(wanted, "regex", "value", "pattern", "regex"))
        case "grammar":
            return grammars().grammar(_text(wanted, "grammar", "value", "grammar"))
        case other:
            raise InvalidRequest(
                f"response_format has the type {short_repr(other)}, which is not supported; these are: {_TYPES}",
                param=_PARAM,
            )


def _one_of(wanted: Mapping[str, Any], *names: str) -> Any:
    return next((wanted[name] for name in names if wanted.get(name) is not None), None)


def _text(wanted: Mapping[str, Any], kind: str, *names: str) -> str:
    found = _one_of(wanted, *names)
    if not isinstance(found, str):
        raise InvalidRequest(f"response_format of type {kind} needs its text as 'value'", param=_PARAM)
    return found
