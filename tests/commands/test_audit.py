"""`manyhats audit`: the log of a server's changes."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.commands.asking import Server, run

ENTRY: dict[str, Any] = {
    "id": 2,
    "time": 1760000000.0,
    "actor": "ci",
    "tenant": "team",
    "request_id": "r-1",
    "action": "alias",
    "task": "spam",
    "alias": "stable",
    "version": None,
    "from_versions": [{"version": 1, "weight": 1.0}],
    "to_versions": [{"version": 1, "weight": 90.0}, {"version": 2, "weight": 10.0}],
    "detail": None,
}
FIRST = ENTRY | {
    "id": 1,
    "action": "upload",
    "version": 1,
    "from_versions": [],
    "to_versions": [{"version": 1, "weight": 1}],
}
SETTINGS = ENTRY | {
    "id": 0,
    "action": "settings",
    "alias": None,
    "from_versions": [],
    "to_versions": [],
    "detail": "labels",
}


def test_a_line_for_each_change_of_every_page(server: Server) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "page_token" not in request.url.params:
            return httpx.Response(200, json={"data": [ENTRY], "next_page_token": "2"})
        return httpx.Response(200, json={"data": [FIRST, SETTINGS], "next_page_token": None})

    server.answer = answer
    lines = run("audit", "--task", "spam")[0].splitlines()
    assert lines[0].split() == ["time", "actor", "action", "task", "what", "request_id"]
    assert " ".join(lines[1].split()) == "2025-10-09 08:53:20 ci alias spam stable 1 -> 1=90+2=10 r-1"
    assert "version 1, stable nothing -> 1" in lines[2]
    assert "labels" in lines[3]
    assert dict(server.requests[0].url.params) == {"limit": "100", "task": "spam"}


def test_no_more_than_wanted(server: Server) -> None:
    server.answers({"data": [ENTRY, FIRST], "next_page_token": "1"})
    found = json.loads(run("audit", "--limit", "1", "--json")[0])
    assert [one["id"] for one in found] == [2]
    assert len(server.requests) == 1
