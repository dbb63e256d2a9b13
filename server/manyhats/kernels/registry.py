"""Which backend does the operations: chosen by the device and by what is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from manyhats.errors import ConfigurationError
from manyhats.kernels.base import Kernels
from manyhats.kernels.reference import Reference

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Backend:
    """`devices`: the types of device that it works on; none: all. `missing`: why it cannot be used here, or None."""

    make: Callable[[], Kernels]
    devices: frozenset[str] = frozenset()
    missing: Callable[[], str | None] = lambda: None


# In the order in which they are preferred.
BACKENDS: dict[str, Backend] = {"reference": Backend(Reference)}


def choose(device: torch.device, name: str = AUTO, backends: Mapping[str, Backend] = BACKENDS) -> Kernels:
    """The backend called `name`, or the first that works on the device.

    Raises ConfigurationError for a name that is not known, and for a backend that cannot work here, with the reason.
    """
    if name == AUTO:
        return next(one for one in backends.values() if _reason(one, device) is None).make()
    if name not in backends:
        raise ConfigurationError(f"there are no kernels called '{name}'; there are {AUTO}, {', '.join(backends)}")
    reason = _reason(backends[name], device)
    if reason is not None:
        raise ConfigurationError(f"the kernels '{name}' cannot be used: {reason}")
    return backends[name].make()


def _reason(backend: Backend, device: torch.device) -> str | None:
    if backend.devices and device.type not in backend.devices:
        return f"they work on {', '.join(sorted(backend.devices))}, and the backbone is on {device.type}"
    return backend.missing()


def described(device: torch.device, backends: Mapping[str, Backend] = BACKENDS) -> dict[str, str]:
    """By name, `ready` or why the backend cannot be used on the device."""
    return {name: _reason(one, device) or "ready" for name, one in backends.items()}
