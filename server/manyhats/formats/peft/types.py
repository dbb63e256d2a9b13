"""The `peft_type`s of PEFT's files: each belongs to a method, which says how it is read."""

from __future__ import annotations

from manyhats.methods.libraries.peft import PeftType
from manyhats.methods.registry import METHODS

PEFT_TYPES: dict[str, PeftType] = {
    peft_type.name: peft_type for method in METHODS.values() for peft_type in method.peft_types
}
