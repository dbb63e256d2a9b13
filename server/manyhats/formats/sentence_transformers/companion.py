"""sentence-transformers' files as a companion."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from manyhats.formats.base import Companion, Stated
from manyhats.formats.sentence_transformers import names

if TYPE_CHECKING:
    from manyhats.backbone import Backbone
    from manyhats.core.adapter import Adapter
    from manyhats.methods.heads import KindName


class SentenceTransformers(Companion):
    """`modules.json` and the files that it names: pooling, the modules after it, prompts, limits."""

    files = names.FILES
    weight_files = names.MODULE_WEIGHT_FILES
    pickled = names.PICKLED
    marks = (names.MODULES,)

    def stated(self, folder: Path, backbone: Backbone) -> Stated:
        from manyhats.formats.sentence_transformers import reader

        return Stated(embeds=reader.is_folder(folder))

    def expected_weights(self, folder: Path) -> Collection[str]:
        from manyhats.formats.sentence_transformers import reader

        return reader.weight_files(folder)

    def read_onto(self, adapter: Adapter, folder: Path, backbone: Backbone, declared: KindName | None) -> Adapter:
        from manyhats.formats.sentence_transformers import reader

        return reader.read_onto(adapter, folder, backbone, declared)
