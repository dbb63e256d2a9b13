"""Checks a request's parameters against those of the task's kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from manyhats.core.kinds.base import Parameters
from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.messages import first_error, short_repr

_OWN_NAMES: Mapping[str, str] = MappingProxyType({})


def parse_parameters(
    kind: str, task: str, defaults: Mapping[str, Any], given: Mapping[str, Any], names: Mapping[str, str] = _OWN_NAMES
) -> Parameters:
    """The task's defaults, overridden by the request's parameters.

    `names`: the caller's names of parameters. Raises InvalidRequest for an unknown parameter, naming the existing ones.
    """
    model = KINDS[kind].parameters
    for name in given:
        if name not in model.model_fields:
            raise InvalidRequest(
                f"the task `{task}` is of kind '{kind}', which has no parameter '{name}'; "
                f"it has {', '.join(model.model_fields)}",
                param=f"parameters.{name}",
            )
    merged = KINDS[kind].merge_parameters(defaults, given)
    try:
        parameters: Parameters = model.model_validate(merged)
    except ValidationError as error:
        first = first_error(error, with_input=True)
        name = str(first.location[0]) if first.location else ""
        where = names.get(name, f"parameters.{name}") if name else "parameters"
        got = f" (got {short_repr(first.input)})" if name else ""
        raise InvalidRequest(f"{where}: {first.reason}{got}", param=where) from None
    return parameters
