"""The formats of adapter folders, and what may lie beside them. A new one is a module of its own and a line here."""

from __future__ import annotations

from manyhats.formats.adapterhub.format import AdapterHub
from manyhats.formats.base import Companion, Format
from manyhats.formats.native.companion import TaskFile
from manyhats.formats.native.format import Native
from manyhats.formats.peft.format import Peft
from manyhats.formats.sentence_transformers.companion import SentenceTransformers

# A folder is read in the first that detects it, and an adapter written in the last that holds it.
FORMATS: tuple[Format, ...] = (Native(), AdapterHub(), Peft())
# Read in this order: what one says goes before what a later one does.
COMPANIONS: tuple[Companion, ...] = (TaskFile(), SentenceTransformers())
