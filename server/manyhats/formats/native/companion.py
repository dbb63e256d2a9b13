"""`manyhats.json` with another library's files, as a companion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manyhats.formats.base import Companion, Stated
from manyhats.formats.native import names

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.core.adapter import Adapter
    from manyhats.methods.heads import KindName


class TaskFile(Companion):
    """What those files cannot say: labels, template, kind."""

    files = (names.FILE,)
    marks = (names.FILE,)

    def stated(self, folder: Path, backbone: Backbone) -> Stated:
        from manyhats.formats.native.task import read_task

        return Stated(kind=read_task(folder, backbone).kind)

    def read_onto(self, adapter: Adapter, folder: Path, backbone: Backbone, declared: KindName | None) -> Adapter:
        from manyhats.formats.native.task import read_task

        return read_task(folder, backbone).put_onto(adapter)

    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        from manyhats.formats.native.task import write_task

        write_task(adapter, folder, backbone)
