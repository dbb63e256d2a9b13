"""Scans for copied folders: how often, where there are very many."""

from __future__ import annotations

from typing import Any, cast

import pytest
from manyhats.serving.scanner import Scanner, rested


class Imports:
    """Stands for the folders in a store. `takes`: seconds of a scan, by the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.takes = 2.0
        self.scans = 0
        self.result: tuple[dict[str, str], bool] = {}, False

    def scan(self) -> tuple[dict[str, str], bool]:
        """Takes its time."""
        self.scans += 1
        self.now += self.takes
        return self.result


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Imports:
    made = Imports()
    monkeypatch.setattr("manyhats.serving.scanner.time.monotonic", lambda: made.now)
    return made


def test_a_scan_takes_a_tenth_of_the_time_at_most(imports: Imports) -> None:
    checked: list[float] = []
    scanner = Scanner(cast("Any", imports), 1.0, before=lambda: checked.append(imports.now))
    for _ in range(100):
        scanner.scan_if_due()
        imports.now += 1.0
    assert imports.scans <= 1 + (imports.now - 1000) / 20
    assert imports.scans >= 4
    assert len(checked) == 100  # keys are looked at each time
    scans = imports.scans
    scanner.scan()
    scanner.scan()  # asked for, it scans
    assert imports.scans == scans + 2


@pytest.mark.parametrize("result", [({"a": "taken in as version 1"}, False), ({}, True)])
def test_after_an_import_or_while_a_folder_is_copied_it_scans_at_once(
    imports: Imports, result: tuple[dict[str, str], bool]
) -> None:
    scanner = Scanner(cast("Any", imports), 1.0)
    imports.result = result
    scanner.scan_if_due()
    scanner.scan_if_due()
    assert imports.scans == 2
    assert rested(1.0, 3.0) == 21.0
