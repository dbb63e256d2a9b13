"""Manyhats: one frozen backbone, many tasks and methods, one batch."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  where the code is imported without having been installed
    raise ImportError(f"manyhats needs Python 3.11 or newer, and this is {sys.version.split()[0]}: {sys.executable}")

from manyhats._version import __version__

__all__ = ["__version__"]
