"""Manyhats: one frozen backbone, many tasks and methods, one batch."""

from manyhats._version import __version__

__all__ = ["__version__"]
