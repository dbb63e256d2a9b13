"""The server and the client have one version, and the changelog's newest release is it."""

import datetime
import re
from pathlib import Path

import manyhats
import manyhats_client

CHANGELOG = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
HEADINGS = [line.removeprefix("## ") for line in CHANGELOG.splitlines() if line.startswith("## ")]


def test_the_changelog_names_what_comes_next_and_every_release_with_its_date():
    assert HEADINGS[0] == "Unreleased"
    days = []
    for heading in HEADINGS[1:]:
        found = re.fullmatch(r"\d+\.\d+\.\d+ - (\d{4}-\d\d-\d\d)", heading)
        assert found, f"not a version and a date: {heading!r}"
        days.append(datetime.date.fromisoformat(found[1]))
    assert days == sorted(days, reverse=True)


def test_server_client_and_changelog_have_one_version():
    newest = HEADINGS[1].partition(" ")[0]
    assert manyhats.__version__ == manyhats_client.__version__ == newest
