"""`engine.structured_output` under its old name."""

from manyhats.engine.structured_output import Grammar, Grammars

__all__ = ["Grammar", "Grammars"]
