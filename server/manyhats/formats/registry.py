"""The formats of adapter folders. A new one is a module of its own and a line here."""

from __future__ import annotations

from manyhats.formats.adapterhub.format import AdapterHub
from manyhats.formats.base import Format
from manyhats.formats.native.format import Native
from manyhats.formats.peft.format import Peft

# A folder is read in the first that detects it, and an adapter written in the last that holds it.
FORMATS: tuple[Format, ...] = (Native(), AdapterHub(), Peft())
