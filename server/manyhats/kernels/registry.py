"""Chooses the kernel backend, by the device and by what is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from manyhats.errors import ConfigurationError, WrongSetting
from manyhats.kernels.base import Kernels
from manyhats.kernels.cpu.backend import CpuKernels
from manyhats.kernels.cpu.library import missing
from manyhats.kernels.cuda import availability as triton
from manyhats.kernels.reference import Reference

logger = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend. `devices`: the device types that it supports; none: all. `missing`: why it cannot be used, or None."""

    make: Callable[[], Kernels]
    devices: frozenset[str] = frozenset()
    missing: Callable[[], str | None] = lambda: None


def _cuda() -> Kernels:
    from manyhats.kernels.cuda.backend import CudaKernels  # imports Triton, which takes seconds, and may not be there

    return CudaKernels()


# In the order in which they are preferred.
BACKENDS: dict[str, Backend] = {
    "cpu": Backend(CpuKernels, frozenset({"cpu"}), missing),
    "cuda": Backend(_cuda, frozenset({"cuda"}), triton.missing),
    "reference": Backend(Reference),
}


def choose(device: torch.device, name: str = AUTO, backends: Mapping[str, Backend] = BACKENDS) -> Kernels:
    """The backend called `name`, or with `auto` the first one that can be used on the device.

    Raises ConfigurationError for an unknown name, and for a backend that cannot be used here, with the reason. Logs why
    a preferred backend is not used.
    """
    if name == AUTO:
        for own, backend in backends.items():
            if backend.devices and device.type not in backend.devices:
                continue
            reason = backend.missing()
            if reason is None:
                return backend.make()
            logger.info("the kernels '%s' cannot be used, which costs time, not answers: %s", own, reason)
    check_kernels(name, backends)
    reason = _reason(backends[name], device)
    if reason is not None:
        raise ConfigurationError(f"the kernels '{name}' cannot be used: {reason}")
    return backends[name].make()


def check_kernels(name: str, backends: Mapping[str, Backend] = BACKENDS) -> None:
    """Raises WrongSetting for the name of no backend."""
    if name != AUTO and name not in backends:
        raise WrongSetting(f"there are no kernels called '{name}'; there are {AUTO}, {', '.join(backends)}")


def _reason(backend: Backend, device: torch.device) -> str | None:
    if backend.devices and device.type not in backend.devices:
        return f"they work on {', '.join(sorted(backend.devices))}, and the backbone is on {device.type}"
    return backend.missing()


def described(device: torch.device, backends: Mapping[str, Backend] = BACKENDS) -> dict[str, str]:
    """For each backend `ready`, or why it cannot be used on the device."""
    return {name: _reason(one, device) or "ready" for name, one in backends.items()}
