"""The examples in /openapi.json, complete: FastAPI leaves out each null, and so fields that an answer must have."""

from __future__ import annotations

from typing import Any

Form = dict[str, Any]  # a part of a JSON schema


def restore_nulls(schema: dict[str, Any]) -> None:
    """Gives each example its required fields back that are null. Changes `schema`, which is FastAPI's."""
    models = schema["components"]["schemas"]

    def visit(part: Any) -> None:
        if isinstance(part, dict):
            for example in part.get("examples") or ():
                _complete(part, example, models)
            for inner in part.values():
                visit(inner)
        elif isinstance(part, list):
            for inner in part:
                visit(inner)

    visit(models)
    visit(schema["paths"])


def _complete(form: Form, value: Any, models: dict[str, Form]) -> None:
    form = _form_of(form, value, models)
    if isinstance(value, list):
        for one in value:
            _complete(form.get("items", {}), one, models)
    elif isinstance(value, dict):
        properties = form.get("properties", {})
        for name in form.get("required", ()):
            value.setdefault(name, None)
        for name, inner in value.items():
            _complete(properties.get(name, {}), inner, models)


def _form_of(form: Form, value: Any, models: dict[str, Form]) -> Form:
    """The form itself behind a reference; of several, the first object that has the value's fields, or array."""
    if "$ref" in form:
        form = models[form["$ref"].rpartition("/")[2]]
    several = form.get("anyOf") or form.get("oneOf")
    if several is None:
        return form
    forms = [_form_of(one, value, models) for one in several]
    if isinstance(value, dict):
        return next((one for one in forms if value.keys() <= one.get("properties", {}).keys()), {})
    return next((one for one in forms if one.get("type") == "array"), {}) if isinstance(value, list) else {}
