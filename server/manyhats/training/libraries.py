"""The libraries that training needs in addition to the server's."""

from __future__ import annotations

import importlib
from types import ModuleType

from manyhats.errors import ConfigurationError

TRAINING = ("accelerate", "matplotlib", "sklearn")  # of every training
_PACKAGES = {"sklearn": "scikit-learn"}


def require(library: str, purpose: str = "training") -> ModuleType:
    """The library. Raises ConfigurationError where it is not installed, with the command that installs it."""
    try:
        return importlib.import_module(library)
    except ImportError:
        package = _PACKAGES.get(library, library.partition(".")[0])
        raise ConfigurationError(
            f"{purpose} needs {package}, which is not installed: pip install '.[train]' in a clone of Manyhats"
        ) from None
