"""What /openapi.json says of errors, of those that do not reach their route too, and of streams."""

from __future__ import annotations

from typing import Any

Form = dict[str, Any]  # a part of a JSON schema

OURS = {"$ref": "#/components/schemas/ErrorBody"}
_OF_ERRORS = ("4", "5")
_STREAM = "text/event-stream"


def complete_errors(schema: Form) -> None:
    """Gives every error of every operation its true content type, JSON, which is not always its answer's; and besides
    its own form, where another server's clients expect one, that of all other routes: a request without a key, too
    large a one, or one to a server that stops is answered before it is known whose form it has. Changes `schema`."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status.startswith(_OF_ERRORS) and "content" in answer:
                    answer["content"] = {"application/json": {"schema": _with_ours(_form(answer["content"]))}}


def complete_streams(schema: Form) -> None:
    """Takes away that a stream's events are texts, FastAPI's word for all that is no JSON. Changes `schema`."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                form = answer.get("content", {}).get(_STREAM, {}).get("schema", {})
                if "$ref" in form or "anyOf" in form:
                    form.pop("type", None)


def _form(content: Form) -> Form:
    """The one form that an answer has, of whatever type it is said to be."""
    return next((of_type["schema"] for of_type in content.values() if of_type.get("schema")), OURS)


def _with_ours(form: Form) -> Form:
    forms: list[Form] = form.get("anyOf", [form])
    return form if OURS in forms else {"anyOf": [*forms, OURS]}
