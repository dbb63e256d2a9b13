"""Writes docs/openapi.json, what /openapi.json says, for clients that are made from it (`make openapi`)."""

from __future__ import annotations

import json
from pathlib import Path

from manyhats.api.app import openapi_schema

TARGET = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def text() -> str:
    """The file as it should be."""
    return json.dumps(openapi_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
