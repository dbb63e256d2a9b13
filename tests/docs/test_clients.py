"""The page of clients says what tests do: its calls stand in a test of the client, its routes in the schema."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from manyhats.api.app import create_app
from manyhats.runtime import Runtime
from manyhats.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([a-z_-]+) \| (`.+`) \| (`.+`) \|$", re.MULTILINE)
# What a client is called in tests.
IMPORTED = {"lorax-client": "import lorax"}


def rows() -> list[tuple[str, str, str]]:
    """Client, call and route of each row, where a row has several calls one after another."""
    found = [
        (client, call, route)
        for client, calls, routes in ROW.findall(PAGE)
        for call in re.findall(r"`([^`]+)`", calls)
        for route in re.findall(r"`([^`]+)`", routes)
    ]
    assert found
    return found


@pytest.fixture(scope="module")
def paths(bert, tmp_path_factory) -> dict[str, set[str]]:
    """The methods of each path, the names of its parameters left out."""
    app = create_app(Runtime(Settings(store=tmp_path_factory.mktemp("clients")), backbone=bert))
    schema = app.openapi()["paths"]
    return {re.sub(r"\{\w+\}", "{}", path): {method.upper() for method in found} for path, found in schema.items()}


@pytest.mark.parametrize(("client", "call"), sorted({(client, call) for client, call, _ in rows()}))
def test_every_call_is_made_by_a_test_of_the_client(client: str, call: str) -> None:
    imported = IMPORTED.get(client, f"import {client.replace('-', '_')}")
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert any(f"{call}(" in text and imported in text.replace("from ", "import ") for text in texts)


@pytest.mark.parametrize("route", sorted({route for *_, route in rows()}))
def test_every_route_is_there(route: str, paths: dict[str, set[str]]) -> None:
    method, path = route.split(" ")
    assert method in paths[re.sub(r"\{\w+\}", "{}", path)]
