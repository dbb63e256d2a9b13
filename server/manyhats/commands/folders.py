"""The folders that a command reads and writes."""

from __future__ import annotations

from pathlib import Path

from manyhats.errors import WrongUsage


def check_folders(path: Path, out: Path) -> None:
    """Raises WrongUsage where there is no folder to read, or none to write that is empty or does not exist."""
    if not path.is_dir():
        raise WrongUsage(f"'{path}' is no folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise WrongUsage(f"'{out}' is {'not empty' if out.is_dir() else 'no folder'}")
