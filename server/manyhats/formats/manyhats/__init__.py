"""Our own adapter folders: `manyhats.json` + `weights.safetensors`, for what no library has a format for.

The same `manyhats.json` with the format `manyhats-task/1` stands beside another library's files and says what those
have no place for: labels, template, the backbone's digest.
"""

from manyhats.formats.manyhats.compositions import compose
from manyhats.formats.manyhats.description import WEIGHTS, describe
from manyhats.formats.manyhats.reader import read
from manyhats.formats.manyhats.writer import write, write_task

__all__ = ["WEIGHTS", "compose", "describe", "read", "write", "write_task"]
