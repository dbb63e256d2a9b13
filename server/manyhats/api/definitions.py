"""The models that operations bring themselves, among those of /openapi.json, where clients made from it find them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Form = dict[str, Any]  # a part of a JSON schema


def form_of(*models: type[BaseModel], mode: Literal["validation", "serialization"]) -> Form:
    """One of `models`, by reference, with what it refers to beside it until `share_definitions` has taken it."""
    references, about = models_json_schema([(m, mode) for m in models], ref_template="#/components/schemas/{model}")
    forms = [references[model, mode] for model in models]
    return (forms[0] if len(forms) == 1 else {"anyOf": forms}) | {"$defs": about["$defs"]}


def share_definitions(schema: Form) -> None:
    """Moves each operation's definitions among the schema's own. Changes `schema`, which is FastAPI's.

    Raises ValueError where one name has two meanings.
    """
    models = schema["components"]["schemas"]

    def visit(part: Any) -> None:
        if isinstance(part, dict):
            for name, form in part.pop("$defs", {}).items():
                if models.setdefault(name, form) != form:
                    raise ValueError(f"two models of /openapi.json are named {name}; rename one of them")
            for inner in part.values():
                visit(inner)
        elif isinstance(part, list):
            for inner in part:
                visit(inner)

    visit(schema["paths"])
    schema["components"]["schemas"] = dict(sorted(models.items()))
