"""PEFT's folders as a format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from manyhats.formats.base import Format, ReadContext
from manyhats.formats.peft import names

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.core.adapter import Adapter


class Peft(Format):
    """`adapter_config.json` with a `peft_type`."""

    name: ClassVar[str] = "peft"
    config = names.CONFIG
    distinguishing = "PEFT's 'peft_type'"
    files = names.FILES
    weight_files = names.WEIGHT_FILES
    pickled = names.PICKLED
    marks = (names.CONFIG,)

    def detect(self, folder: Path) -> bool:
        from manyhats.formats.files import read_json

        path = folder / names.CONFIG
        return path.is_file() and "peft_type" in read_json(path)

    def read(self, folder: Path, backbone: Backbone, context: ReadContext) -> Adapter:
        from manyhats.formats.files import read_json
        from manyhats.formats.peft import reader

        return reader.read(folder, read_json(folder / names.CONFIG), backbone, context.hints)

    def holds(self, adapter: Adapter, backbone: Backbone) -> bool:
        from manyhats.formats.peft import writer

        return writer.holds(adapter, backbone)

    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        from manyhats.formats.peft import writer

        writer.write(adapter, folder, backbone)
