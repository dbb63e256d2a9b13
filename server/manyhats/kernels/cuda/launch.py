"""Launches of programs on the device."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

_PRECISION = "PRECISION"  # of a program with products; by default of IEEE's float32


class Launch(Protocol):
    """Launches a program: one for each place of the grid. `constants`: what the program is compiled for."""

    def __call__(self, program: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None: ...


def launch(program: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """On the device of the first argument. Triton itself takes the thread's current one.

    Products of float32 are as torch's own are set to be: `high` is TF32.
    """
    if _PRECISION in program.arg_names and torch.get_float32_matmul_precision() != "highest":
        constants[_PRECISION] = "tf32"
    first: Tensor = arguments[0]
    if first.is_cuda and first.device.index != torch.cuda.current_device():
        with torch.cuda.device(first.device):
            program[grid](*arguments, **constants)
        return
    program[grid](*arguments, **constants)
