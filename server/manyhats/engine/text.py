"""The old name of the incremental detokenizer."""

from __future__ import annotations

from manyhats.engine.detokenizer import IncrementalDetokenizer as TextWriter

__all__ = ["TextWriter"]
