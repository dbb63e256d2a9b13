"""AdapterHub's folders as a format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from manyhats.formats.adapterhub import names
from manyhats.formats.base import Format, ReadContext, SetupFiles

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.core.adapter import Adapter


class AdapterHub(Format):
    """`adapter_config.json` with a `config`, or folders of several adapters that act together."""

    name: ClassVar[str] = "adapterhub"
    config = names.CONFIG
    distinguishing = "AdapterHub's 'config' and 'model_type'"
    files = names.FILES
    weight_files = names.WEIGHT_FILES
    pickled = names.PICKLED
    marks = (names.CONFIG, names.FUSION_CONFIG, names.SETUP)
    setup = SetupFiles(
        marks=frozenset({names.SETUP}),
        inner_marks=frozenset({names.FUSION_CONFIG}),
        member_marks=frozenset({names.CONFIG, names.FUSION_CONFIG, names.HEAD_CONFIG}),
    )

    def detect(self, folder: Path) -> bool:
        from manyhats.formats.adapterhub.reader import is_adapter
        from manyhats.formats.adapterhub.setup import is_setup
        from manyhats.formats.files import read_json

        if is_setup(folder):
            return True
        path = folder / names.CONFIG
        if not path.is_file():
            return False
        config = read_json(path)
        return "peft_type" not in config and is_adapter(config)

    def expected_weights(self, folder: Path) -> Sequence[str]:
        from manyhats.formats.adapterhub.setup import is_setup, setup_weights

        if is_setup(folder):
            return setup_weights(folder)
        return names.WEIGHTS, *((names.HEAD_WEIGHTS,) if (folder / names.HEAD_CONFIG).exists() else ())

    def read(self, folder: Path, backbone: Backbone, context: ReadContext) -> Adapter:
        from manyhats.formats.adapterhub import reader
        from manyhats.formats.adapterhub.setup import is_setup, read_setup
        from manyhats.formats.files import read_json

        if is_setup(folder):
            return read_setup(folder, backbone)
        return reader.read(folder, read_json(folder / names.CONFIG), backbone)

    def holds(self, adapter: Adapter, backbone: Backbone) -> bool:
        from manyhats.formats.adapterhub import writer

        return writer.holds(adapter)

    def write(self, adapter: Adapter, folder: Path, backbone: Backbone) -> None:
        from manyhats.formats.adapterhub import writer

        writer.write(adapter, folder, backbone)
