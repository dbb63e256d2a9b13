"""Whether programs in Triton can be built and run here, and are right. Imports Triton only where all else is there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path

import torch

from manyhats.kernels.cuda import prebuilt_driver

_MIN_CAPABILITY = (8, 0)  # bfloat16


@cache
def missing() -> str | None:
    """Why the kernels cannot be used on a CUDA device here; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: torch's wheels for CUDA bring it"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET is set: Triton's interpreter, which is for tests, cannot follow addresses on a device"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < _MIN_CAPABILITY:
        found, needed = (".".join(map(str, one)) for one in (capability, _MIN_CAPABILITY))
        return f"the device has the compute capability {found}, and {needed} is needed"
    if prebuilt_driver.found():
        prebuilt_driver.use()
    elif os.environ.get("CC") is None and not (shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler where the server runs: install gcc or clang"
    elif not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Triton needs Python's headers where the server runs: install python3-dev or its like"
    from manyhats.kernels.cuda.self_check import fault  # imports Triton

    return fault(torch.device("cuda", torch.cuda.current_device()))
