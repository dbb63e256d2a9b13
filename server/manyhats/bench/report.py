"""Figures as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from manyhats.bench.machine import described


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `value`: in `unit`; an empty unit is a ratio. `detail`: of what it was made."""

    name: str
    value: float
    unit: str = ""
    detail: str = ""

    @property
    def text(self) -> str:
        """The value and its unit."""
        digits = 2 if abs(self.value) < 10 else 1 if abs(self.value) < 100 else 0
        return f"{self.value:.{digits}f}{f' {self.unit}' if self.unit else ''}"


def publish(
    title: str,
    about: dict[str, object],
    figures: Iterable[Figure],
    file: Path | None = None,
    console: Console | None = None,
) -> None:
    """Prints the figures and the machine that gave them, and writes both to a file. `about`: the machine."""
    figures = list(figures)
    console = console or Console()
    _print_figures(title, figures, console)
    console.print(f"[dim]{described(about)}[/dim]")
    if file is not None:
        write_json(file, about, figures)


def _print_figures(title: str, figures: Iterable[Figure], console: Console) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("from", style="dim")
    for figure in figures:
        table.add_row(figure.name, figure.text, figure.detail)
    console.print(table)


def write_json(file: Path, about: dict[str, object], figures: Iterable[Figure]) -> None:
    """Writes the machine and the figures. Makes the folder where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(as_json(about, figures), indent=1) + "\n", encoding="utf-8")


def as_json(about: dict[str, object], figures: Iterable[Figure]) -> dict[str, object]:
    """The machine and the figures, as they are written."""
    return {"machine": about, "figures": [asdict(figure) for figure in figures]}
