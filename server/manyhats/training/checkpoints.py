"""Checkpoints, from which a killed run continues with the same result."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from manyhats.disk import full_disk_as_storage_full
from manyhats.errors import InvalidRequest, StorageFull

_VERSION = 1


def storage_full(folder: Path) -> AbstractContextManager[None]:
    """Raises StorageFull in place of the error of a full disk."""
    return full_disk_as_storage_full(
        lambda error: (
            f"there is no room in '{folder}' for the adapter: {error}; make room and run again with --resume, "
            "which begins at the last checkpoint"
        )
    )


@dataclass(slots=True)
class Checkpoints:
    """One file, replaced atomically. `of`: identifies the training; only a run of the same may resume.

    `every`: seconds between two within an epoch; at the end of every epoch one is written in any case.
    """

    path: Path
    of: Mapping[str, Any] = field(default_factory=dict)
    every: float = 60.0
    _last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether a checkpoint is due."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: Mapping[str, Any]) -> None:
        """Raises StorageFull where the disk is full; the previous checkpoint stays."""
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save({"version": _VERSION, "of": dict(self.of), "state": dict(state)}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
            with suppress(OSError):
                temporary.unlink()
            raise StorageFull(
                f"the checkpoint '{self.path}' cannot be written: {error}; the training can go on with --resume once "
                "there is room" + (", from the checkpoint before" if self.path.exists() else "")
            ) from None
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint; None where there is none. Raises InvalidRequest for one of another training."""
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, weights_only=True)
        except Exception as error:
            raise InvalidRequest(
                f"the checkpoint '{self.path}' is damaged: {error}; remove it", param="resume"
            ) from None
        if saved["version"] != _VERSION:
            raise InvalidRequest(f"the checkpoint '{self.path}' is of another version; remove it", param="resume")
        for name, value in self.of.items():
            if saved["of"].get(name) != value:
                raise InvalidRequest(
                    f"the checkpoint '{self.path}' is of a training with {name} {saved['of'].get(name)!r}, this one "
                    f"has {value!r}; remove it to begin anew",
                    param="resume",
                )
        state: dict[str, Any] = saved["state"]
        return state

    def remove(self) -> None:
        """Removes the checkpoint, once the result is written."""
        self.path.unlink(missing_ok=True)
