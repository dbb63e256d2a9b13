"""What schemathesis is told of this server, as SCHEMATHESIS_HOOKS: which tasks there are.

Most requests name a real task where their route takes one, so that they come further than to the 404; the others keep
what was made up. Routes that take something away get tasks that nothing else needs. Nothing is drawn at random: what a
request becomes follows from its own content, so that a seed gives the same requests again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import schemathesis

NAMES = os.environ.get("CONTRACT_TASKS", "base").split(",")
SPARE = [f"spare-{i}" for i in range(int(os.environ.get("CONTRACT_SPARE", "1")))]
_DESTROYS = {"DELETE /v1/tasks/{task}", "DELETE /v1/tasks/{task}/versions/{number}", "POST /v1/unload_lora_adapter"}
_NAMES_IN_BODIES = ("model", "adapter_id", "lora_name", "task")


@schemathesis.hook
def before_call(ctx: schemathesis.HookContext, case: schemathesis.Case, **kwargs: Any) -> None:
    """Puts real names into a request. Raises nothing: what has no place for a name stays as it is."""
    label = case.operation.label
    names = SPARE if label in _DESTROYS else NAMES
    number = zlib.crc32(repr((label, case.path_parameters, case.body)).encode("utf-8", "replace"))
    if number % 4:
        _fill(case, names, number // 4)
    _wait(case.body)


def _fill(case: schemathesis.Case, names: Sequence[str], number: int) -> None:
    given = case.path_parameters or {}
    name = names[number % len(names)]
    chosen = {"task": name, "model": name, "number": 1 + number % 2, "alias": ("stable", "canary")[number % 2]}
    case.path_parameters = {key: chosen.get(key, value) for key, value in given.items()}
    if isinstance(case.body, dict):
        _fill_body(case.body, names, number)


def _wait(body: Any) -> None:
    """Has a request wait as long as the server does: whoever waits for no time gets no answer in it, which is right."""
    if isinstance(body, dict) and isinstance(given := body.get("timeout"), int | float) and 0 < given < 1:
        body["timeout"] = 60


def _fill_body(body: dict[str, Any], names: Sequence[str], number: int) -> None:
    for i, (key, value) in enumerate(list(body.items())):
        # An upload's part `task` is JSON.
        if key in _NAMES_IN_BODIES and isinstance(value, str) and not value.startswith("{"):
            body[key] = names[(number + i) % len(names)]
        elif key == "tasks" and isinstance(value, list):
            body[key] = [names[(number + j) % len(names)] if isinstance(v, str) else v for j, v in enumerate(value)]
        elif isinstance(value, dict):
            _fill_body(value, names, number + i)
        elif key == "requests" and isinstance(value, list):
            for j, item in enumerate(value):
                if isinstance(item, dict):
                    _fill_body(item, names, number + j)


@schemathesis.hook
def before_load_schema(ctx: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """In the document a stream's event is its data, in JSON; schemathesis takes that for the event around it."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                event = answer.get("content", {}).get("text/event-stream")
                if event is not None:
                    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": event["schema"]}
                    event["schema"] = {"type": "object", "required": ["data"], "properties": {"data": data}}
