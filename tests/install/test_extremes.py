"""What `make test-oldest` and `make test-newest` say after a run with failures."""

import sys
from pathlib import Path

import pytest

from scripts import extremes

BROKEN = """
import {module}, pytest

@pytest.mark.parametrize("value", [None, 1, "a"])
def test_asks_a_library(value):
    {call}

def test_is_our_own_fault():
    assert 1 + 1 == 3
"""


@pytest.fixture
def failures(tmp_path: Path) -> list[str]:
    """What pytest reports of two tests that fail inside httpx, one that passes, and one that no library makes fail."""
    tests = tmp_path / "test_broken.py"
    text = BROKEN.format(module="httpx", call='httpx.URL("http://host") if value == "a" else httpx.URL(value)')
    tests.write_text(text, encoding="utf-8")
    options = ["--rootdir", str(tmp_path), "--noconftest", "-p", "no:cacheprovider", "-q", str(tests)]
    code, found = extremes.test(Path(sys.executable), tmp_path, options)
    assert code == 1
    return found


def test_a_failure_counts_for_the_libraries_that_its_traceback_goes_through(failures, monkeypatch):
    assert len(failures) == 3
    here = {"httpx": ("0.28.0", ["httpx"]), "rich": ("13.9.0", ["rich"]), "numpy": ("2.4.6", ["numpy"])}
    here["torch"] = ("2.13.0+cpu", ["torch"])
    pins = {"httpx": "0.28.1", "rich": "15.0.0", "numpy": "2.4.6", "torch": "2.13.0"}
    monkeypatch.setattr(extremes, "installed", lambda python: here)
    monkeypatch.setattr(extremes, "locked", lambda python: pins)
    libraries = extremes.differing(Path(sys.executable), failures)
    assert [(x.name, x.locked, x.here, x.mentions) for x in libraries] == [
        ("httpx", "0.28.1", "0.28.0", 2),
        ("rich", "15.0.0", "13.9.0", 0),
    ]
    assert libraries[0].first.startswith("TypeError: Invalid type for url.")

    libraries[0].passed = "2"
    lines = extremes.told("oldest", libraries, len(failures)).splitlines()
    assert lines[0] == "oldest: 3 tests failed; 2 libraries differ from the lock"
    assert lines[2].split() == ["httpx", "0.28.1", "0.28.0", "2", "2"]
    assert lines[4].startswith("httpx 0.28.0: TypeError: Invalid type for url.")


def test_the_lock_and_the_environment_are_read_as_they_are():
    python = Path(sys.executable)
    assert extremes.locked(python)["transformers"]
    version, modules = extremes.installed(python)["scikit-learn"]
    assert version[0].isdigit()
    assert "sklearn" in modules
