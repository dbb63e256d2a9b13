"""The bodies of every route that reads one, found in the routes themselves."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

import manyhats.api
from pydantic import BaseModel


def _modules() -> list[Any]:
    found = pkgutil.walk_packages(manyhats.api.__path__, "manyhats.api.")
    return [import_module(module.name) for module in found]


def _bodies() -> list[type[BaseModel]]:
    """Every model that is named like a body and made where a route group stands; answers are written, never read."""
    from manyhats.api.schemas import AnswerBody

    found = {
        value
        for module in _modules()
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, BaseModel)
        and not issubclass(value, AnswerBody)
        and value.__module__.startswith("manyhats.api.")
        and value.__name__.endswith(("Body", "Form"))
    }
    return sorted(found, key=lambda model: (model.__module__, model.__name__))


BODIES = _bodies()


def _examples(number: int, model: type[BaseModel]) -> list[tuple[int, Any]]:
    extra = model.model_config.get("json_schema_extra")
    given = extra.get("examples", []) if isinstance(extra, dict) else []
    return [(number, example) for example in given] or [(number, {})]


# Each with the number of its body.
EXAMPLES = [one for number, model in enumerate(BODIES) for one in _examples(number, model)]
