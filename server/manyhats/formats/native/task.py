"""`manyhats.json` with another library's files, for what those cannot say: labels, template, kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import KINDS, kinds_of_head
from manyhats.errors import InvalidRequest
from manyhats.formats.files import write_json
from manyhats.formats.heads import kind_as_read
from manyhats.formats.native.description import TASK, CommonFields, describe
from manyhats.formats.native.names import FILE
from manyhats.messages import short_repr
from manyhats.methods.heads import KindName

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


@dataclass(frozen=True, slots=True)
class TaskDescription:
    """The task's settings, and the adapter's kind."""

    settings: Mapping[str, Any]
    kind: KindName | None = None

    def put_onto(self, adapter: Adapter) -> Adapter:
        """The adapter with these settings, which take precedence over those of other files."""
        return replace(adapter, settings=dict(adapter.settings) | dict(self.settings))


def read_task(folder: Path, backbone: Backbone) -> TaskDescription:
    """Reads the task's description; empty where there is no such file. Raises InvalidRequest or AdapterMismatch."""
    description = describe(folder, backbone)
    if description is None or description.common.format != TASK:
        return TaskDescription({})
    kind = description.common.task.get("kind")
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        raise InvalidRequest(f"{FILE}: task.kind is {short_repr(kind)}; these are: {', '.join(KINDS)}", param="kind")
    return TaskDescription(description.common.task, kind)


def write_task(adapter: Adapter, folder: Path, backbone: Backbone) -> None:
    """Writes what another library's files cannot store."""
    head = adapter.head
    read_as_other = head is not None and head.kind in kinds_of_head(head) and kind_as_read(head) != head.kind
    common = CommonFields(
        format=TASK,
        base_model_name_or_path=backbone.name,
        base_sha256=backbone.sha256,
        task=dict(adapter.settings) | ({"kind": adapter.kind} if read_as_other else {}),
    )
    write_json(folder / FILE, common.model_dump(exclude={"head", "answers"}))
