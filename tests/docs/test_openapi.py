"""docs/openapi.json, which clients are made from, is what the server says."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest
from manyhats.api.app import openapi_schema

from tests.docs.pages import ROOT

FILE = ROOT / "docs" / "openapi.json"
LOCK = ROOT / "requirements" / "constraints.txt"
WRITTEN_BY = ("fastapi", "pydantic", "pydantic-core")  # whose releases say the same in other words


def changed(before: Any, now: Any, where: str = "") -> list[str]:
    """Where two values differ, at most to the second level of paths and models."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict) and where.count(" ") < 3:
        names = sorted({*before, *now})
        return [one for name in names for one in changed(before.get(name), now.get(name), f"{where} {name}")]
    return [where.strip()]


def test_the_committed_schema_is_the_server_s() -> None:
    pins = dict(line.partition(" ")[0].split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    other = {name: version(name) for name in WRITTEN_BY if version(name) != pins[name]}
    if other:
        pytest.skip(f"these are not the lock's and may write it in other words: {other}")
    now = json.loads(json.dumps(openapi_schema()))
    different = changed(json.loads(FILE.read_text(encoding="utf-8")), now)
    assert not different, f"docs/openapi.json is out of date ({', '.join(different[:8])}): run `make openapi`"


def test_a_difference_is_named() -> None:
    before = {"paths": {"/a": {"get": {"x": 1}}, "/b": {}}, "info": {"version": "1"}}
    now = {"paths": {"/a": {"get": {"x": 2}}, "/c": {}}, "info": {"version": "2"}}
    assert changed(before, now) == ["info version", "paths /a get", "paths /b", "paths /c"]
