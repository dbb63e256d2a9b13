"""What another library does as it is installed: a failure is said to be about it, with its version."""

from __future__ import annotations

from collections.abc import Generator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Their warnings about each other are not ours to heed.
WARNINGS = ("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
STORED = "test_stored.py"


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def libraries() -> str:
    """The versions that a failure is about."""
    return f"{_installed('peft')} with {_installed('transformers')}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("the installed libraries", f"{libraries()} on {_installed('torch')}"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    def of(outcome: str) -> list[str]:
        found = (getattr(report, "nodeid", "") for report in terminalreporter.stats.get(outcome, []))
        return [node for node in found if f"{HERE.parent.name}/{HERE.name}/" in node]

    failed = [*of("failed"), *of("error")]
    if not failed:
        return
    terminalreporter.section("the installed libraries", sep="=", red=True)
    terminalreporter.write_line(
        f"{libraries()}: {_counted(len(failed), 'failure')}, first {failed[0]}; "
        "the suite's own stored references do not depend on it"
    )
    stored = [node for node in failed if f"/{STORED}::" in node]
    if stored:
        terminalreporter.write_line(
            f"{len(stored)} of them {'is a stored reference' if len(stored) == 1 else 'are stored references'} "
            "that the library no longer gives: the library has changed"
        )
    elif any(f"/{STORED}::" in node for node in of("passed")):
        terminalreporter.write_line(
            "the library still gives every stored reference: look first at what Manyhats writes for it"
        )
