"""Our own formats, as one of the formats of adapter folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from manyhats.formats.base import Format, ReadContext
from manyhats.formats.native import names

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.core.adapter import Adapter


class Native(Format):
    """`manyhats.json` of any format except `manyhats-task/1`."""

    name: ClassVar[str] = "native"
    config = names.FILE
    complete = True
    files = names.FILES
    weight_files = (names.WEIGHTS,)
    marks = (names.FILE,)

    def detect(self, folder: Path) -> bool:
        from manyhats.formats.files import read_json
        from manyhats.formats.native.description import TASK

        path = folder / names.FILE
        return path.is_file() and read_json(path).get("format") != TASK

    def read(self, folder: Path, backbone: Backbone, context: ReadContext) -> Adapter:
        from manyhats.formats.native import reader
        from manyhats.formats.native.compositions import compose
        from manyhats.formats.native.description import describe
        from manyhats.methods.composition import CompositionFields

        description = describe(folder, backbone)
        assert description is not None, "the file was detected"
        if not isinstance(description.fields, CompositionFields):
            return reader.read(folder, description, backbone)
        kind = description.common.answers if description.common.head is None else None
        members = [context.read_stored(sha, kind) for sha in description.fields.members]
        return compose(folder, description, backbone, members)

    def holds(self, adapter: Adapter, backbone: Backbone) -> bool:
        return True

    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        from manyhats.formats.native import writer

        writer.write(adapter, folder, backbone)
