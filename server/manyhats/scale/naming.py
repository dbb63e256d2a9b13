"""Where a request names its task, as far as a router needs it: the path, or a field of the body.

A name that is not found here costs nothing but a load of an adapter: any replica answers any request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

# Bytes of a body that is looked into. Parsing a larger one would hold up the others, and its work outweighs a load.
LOOKED_INTO = 1 << 20

_IN_PATH = re.compile(r"/v1/tasks/([^/]+)(?:/.+)?|/v1/models/(.+)|/v2/models/([^/]+)(?:/.+)?|/models/([^/]+)(?:/.+)?")
# Routes below /v1/tasks that ask, though they are no GET.
_ASKS = re.compile(r"/v1/tasks/[^/]+/predict")
# What changes something beside them.
_CHANGES = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
# Of them, those that change what one replica holds alone, and no task.
_PLACES = re.compile(r"/v1/tasks/[^/]+/(?:load|unload|lift)")
_WHOLE = frozenset({"model", "adapter_id", "lora_name"})  # fields of a body that name a task


def task_in_path(path: str) -> str | None:
    """The task that a path names, without its version or alias."""
    match = _IN_PATH.fullmatch(path)
    return None if match is None else plain_name(next(part for part in match.groups() if part is not None))


def task_in_body(body: bytes) -> str | None:
    """The task that a JSON body names: the first, where it names several; None where it names none or is no JSON."""
    if not body or len(body) > LOOKED_INTO:
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return _named(value)


def plain_name(model: str) -> str | None:
    """`backbone:task@canary` as `task`; None for what cannot be a name."""
    return model.rpartition(":")[2].partition("@")[0] or None


def changes(method: str, path: str) -> bool:
    """Whether a request may change tasks, so that doing it twice is not the same as doing it once."""
    if method in ("GET", "HEAD", "OPTIONS") or _PLACES.fullmatch(path):
        return False
    if path in _CHANGES or method in ("PUT", "PATCH", "DELETE"):
        return True
    return path.startswith("/v1/tasks") and _ASKS.fullmatch(path) is None


def _named(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return None
    for field in _WHOLE:
        if isinstance(name := value.get(field), str):
            return plain_name(name)
    if isinstance(given := value.get("parameters"), Mapping) and isinstance(name := given.get("adapter_id"), str):
        return plain_name(name)
    if isinstance(tasks := value.get("tasks"), list) and tasks and isinstance(tasks[0], str):
        return plain_name(tasks[0])
    requests = value.get("requests")
    if isinstance(requests, list) and requests and isinstance(requests[0], Mapping):
        name = requests[0].get("task")
        return plain_name(name) if isinstance(name, str) else None
    return None
