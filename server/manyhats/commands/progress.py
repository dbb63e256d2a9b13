"""Bars on stderr, where it is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Told = Callable[[int, int | None], None]
"""Is told how much is done and, where it is known, of how much."""


@contextmanager
def bytes_bar(label: str) -> Iterator[Told]:
    """Bytes that go to a server, or come from one."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with _bar(label, *columns, TimeRemainingColumn()) as told:
        yield told


@contextmanager
def lines_bar(label: str) -> Iterator[Told]:
    """Lines that are answered; not shown where it would stand between the answers."""
    with _bar(label, SpinnerColumn(), MofNCompleteColumn(), TimeElapsedColumn(), hidden=sys.stdout.isatty()) as told:
        yield told


@contextmanager
def _bar(label: str, *columns: ProgressColumn, hidden: bool = False) -> Iterator[Told]:
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal)
    with progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
