"""References that are made from what the program says of itself, while the documentation's site is built: every route,
from docs/openapi.json, and every command, from typer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The groups of routes, in the order of the page, with their titles.
GROUPS = {
    "predict": "Asking",
    "tasks": "Tasks",
    "versions": "Versions",
    "openai": "OpenAI's routes",
    "vllm": "vLLM's routes",
    "lorax": "LoRAX's and TGI's routes",
    "tei": "TEI's routes",
    "huggingface": "Hugging Face's routes",
    "kserve": "KServe's and Triton's routes",
    "sagemaker": "SageMaker's route",
    "operations": "Health, metrics and more",
    "page": "The web page",
}
_KEYS = {
    name: f"a key with {scopes}, where the server has keys"
    for name, scopes in {
        "Key": "the scope `predict`",
        "ReadKey": "one of the scopes `predict`, `upload` and `admin`",
        "UploadKey": "the scope `upload`",
        "AdminKey": "the scope `admin`",
        "MetricsKey": "the scope `metrics`",
    }.items()
}
_SHORT = 120  # characters of a default that a cell of a table shows


def commands() -> str:
    """Every command with its arguments and options, as typer writes them."""
    from manyhats.cli import app
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command, info_name="manyhats"), name="manyhats")
    return text.removeprefix("# `manyhats`\n")


def rest(path: Path = ROOT / "docs" / "openapi.json") -> str:
    """Every operation with its parameters, its body and its answers, and every model that they name."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    models = schema["components"]["schemas"]
    grouped: dict[str, list[str]] = {}
    for address, methods in schema["paths"].items():
        for method, operation in methods.items():
            (group, *_) = operation["tags"]
            grouped.setdefault(group, []).append("\n".join(_operation(method, address, operation, models)))
    unknown = set(grouped) - set(GROUPS)
    assert not unknown, f"groups of routes without a title in scripts/references.py: {unknown}"
    parts = [f"## {title}\n\n" + "\n".join(grouped[group]) for group, title in GROUPS.items() if group in grouped]
    parts.append("## Models\n\nWhat the tables above call by name.\n")
    parts += ["\n".join(_model(name, model)) for name, model in sorted(models.items())]
    return "\n".join(parts)


def _operation(method: str, address: str, operation: dict[str, Any], models: dict[str, Any]) -> Iterator[str]:
    yield f"### `{method.upper()} {address}`\n"
    yield f"{_text(operation.get('description') or operation['summary'])}\n"
    keys = [_KEYS[name] for one in operation.get("security", []) for name in one]
    yield f"Needs {keys[0] if keys else 'no key'}.\n"
    if parameters := operation.get("parameters"):
        yield from _table(
            ("parameter", "in", "type", "default", "meaning"),
            [
                (
                    f"`{one['name']}`",
                    one["in"],
                    _kind(one["schema"]),
                    _default(one["schema"], one.get("required", False)),
                    _cell(one.get("description", "")),
                )
                for one in parameters
            ],
        )
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body, `{media}`:\n"
        yield from _fields(content.get("schema", {}))
        yield from _example(content, models)
    for status, answer in operation["responses"].items():
        contents = answer.get("content", {})
        if not status.startswith("2"):
            continue
        said = _text(answer["description"])
        yield f"Answer {status}{'' if said == 'Successful Response' else f': {said}'}\n"
        for media, content in contents.items():
            kind = _kind(content.get("schema", {}))
            yield f"`{media}`{f': {kind}' if kind else ''}\n"
            yield from _example(content, models)
    errors = {_kind(c["schema"]) for s, a in operation["responses"].items() if s[0] in "45" for c in _json(a)}
    if errors:
        yield f"Errors: {', '.join(sorted(errors))}; [errors](errors.md) has the statuses.\n"


def _json(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [content for content in answer.get("content", {}).values() if "schema" in content]


def _model(name: str, model: dict[str, Any]) -> Iterator[str]:
    yield f"#### {name} {{#{name.lower()}}}\n"
    if "description" in model:
        yield f"{_text(model['description'])}\n"
    yield from _fields(model)


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    """A table of an object's fields; of anything else its type in a line."""
    if "$ref" in schema:
        yield f"{_kind(schema)}\n"
    elif properties := schema.get("properties"):
        required = schema.get("required", [])
        yield from _table(
            ("field", "type", "default", "meaning"),
            [
                (f"`{name}`", _kind(one), _default(one, name in required), _cell(one.get("description", "")))
                for name, one in properties.items()
            ],
        )
    else:
        yield f"{_kind(schema) or 'Anything'}\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table without the columns in which nothing stands."""
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row[place] for place in kept)} |"
    yield ""


def _example(content: dict[str, Any], models: dict[str, Any]) -> Iterator[str]:
    schema = content.get("schema", {})
    examples = content.get("examples") or schema.get("examples") or []
    if "$ref" in schema:
        examples = models[schema["$ref"].rpartition("/")[2]].get("examples", [])
    if isinstance(examples, dict):
        examples = [one["value"] for one in examples.values()]
    for one in examples[:1]:
        text = one if isinstance(one, str) else json.dumps(one, indent=2, ensure_ascii=False)
        yield f"```{'text' if isinstance(one, str) else 'json'}\n{text}\n```\n"


def _kind(schema: dict[str, Any]) -> str:
    """A type in words; a model as a link."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"const": value}:
            return f"`{json.dumps(value)}`"
        case {"enum": values}:
            return " or ".join(f"`{json.dumps(value)}`" for value in values)
        case {"anyOf": several} | {"oneOf": several}:
            return " or ".join(dict.fromkeys(filter(None, map(_kind, several))))
        case {"type": "array", "items": items}:
            inside = _kind(items)
            return f"list of ({inside})" if " or " in inside else f"list of {inside}" if inside else "list"
        case {"type": "object", "title": str(title), "properties": _}:
            return f"object {title}"
        case {"type": "object", "additionalProperties": dict(values)} if _kind(values):
            return f"object of {_kind(values)}"
        case {"type": str(name)}:
            bounds = [f"at least {schema['minimum']:g}"] if "minimum" in schema else []
            bounds += [f"at most {schema['maximum']:g}"] if "maximum" in schema else []
            return name + (f" ({', '.join(bounds)})" if bounds else "")
    return ""


def _default(schema: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    text = json.dumps(schema["default"]) if schema.get("default") is not None else ""
    return f"`{text}`" if text and len(text) < _SHORT else ""


def _text(text: str) -> str:
    return re.sub(r"<(?=[a-z/])", "&lt;", text)


def _cell(text: str) -> str:
    return _text(" ".join(text.split())).replace("|", "\\|")
