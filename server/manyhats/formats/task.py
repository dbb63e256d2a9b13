"""What `manyhats.json` says beside another library's files, which have no place for it: labels, template, kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.kinds.registry import KINDS
from manyhats.errors import InvalidRequest
from manyhats.formats.native.description import TASK, describe
from manyhats.formats.native.names import FILE
from manyhats.formats.native.writer import write_task
from manyhats.messages import short_repr
from manyhats.methods.heads import KindName

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

__all__ = ["TaskDescription", "read_task", "write_task"]


@dataclass(frozen=True, slots=True)
class TaskDescription:
    """The task's settings, and what it says that the adapter is for."""

    settings: Mapping[str, Any]
    kind: KindName | None = None


def read_task(folder: Path, backbone: Backbone) -> TaskDescription:
    """What is said of the task; nothing where there is no such file. Raises InvalidRequest or AdapterMismatch."""
    description = describe(folder, backbone)
    if description is None or description.common.format != TASK:
        return TaskDescription({})
    kind = description.common.task.get("kind")
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        raise InvalidRequest(f"{FILE}: task.kind is {short_repr(kind)}; these are: {', '.join(KINDS)}", param="kind")
    return TaskDescription(description.common.task, kind)
