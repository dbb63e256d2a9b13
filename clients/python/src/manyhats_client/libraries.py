"""Optional libraries: numpy for arrays, pandas for tables."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import types


def numpy(what: str) -> Any:
    """The module numpy. Raises ImportError, which says what needs it and how to install it."""
    return _module("numpy", what)


def pandas(what: str) -> Any:
    """The module pandas. Raises ImportError, which says what needs it and how to install it."""
    return _module("pandas", what)


def _module(name: str, what: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{what} needs {name}: pip install 'manyhats-client[{name}]'", name=name) from None
