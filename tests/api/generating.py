"""What the tests of generation share: a decoder's server, tasks that write, and the events of a stream."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.api.live import Live

PROMPTS = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8"]
CHAT = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


def add(live: Live, method: str = "lora", **settings: Any) -> str:
    """A task that generates."""
    task = live.add("text", method, kind="generate")
    if settings:
        assert live.client.put(f"/v1/tasks/{task}", json=settings).status_code == 200
    return task


def events(response: httpx.Response) -> list[Any]:
    """The events of a stream; `[DONE]` as it is."""
    data = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]
