"""Adapter folders of every format: which it is, what it holds, and whether it fits the backbone."""

from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter

__all__ = ["read_adapter", "write_adapter"]
