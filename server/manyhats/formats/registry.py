"""The formats of adapter folders, and their companions. A new one is a module and a line here."""

from __future__ import annotations

from manyhats.formats.adapterhub.format import AdapterHub
from manyhats.formats.base import Companion, Format
from manyhats.formats.native.companion import TaskFile
from manyhats.formats.native.format import Native
from manyhats.formats.peft.format import Peft
from manyhats.formats.sentence_transformers.companion import SentenceTransformers

# A folder is read by the first that detects it, an adapter is written by the last that holds it.
FORMATS: tuple[Format, ...] = (Native(), AdapterHub(), Peft())
# Read in this order: earlier ones take precedence.
COMPANIONS: tuple[Companion, ...] = (TaskFile(), SentenceTransformers())
