"""How programs are launched: with which products of float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


class _Program:
    """Writes down what it is launched with."""

    def __init__(self, *names: str) -> None:
        self.arg_names = names
        self.constants: list[dict[str, Any]] = []

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **constants: self.constants.append(constants)


@pytest.mark.usefixtures("matmul_precision")
def test_products_are_as_torchs_own() -> None:
    from manyhats.kernels.cuda.launch import launch

    product, other = _Program("x", "ROWS", "PRECISION"), _Program("x", "ROWS")
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        for program in (product, other):
            launch(program, (1,), torch.zeros(1), ROWS=16)
    assert product.constants == [{"ROWS": 16}, {"ROWS": 16, "PRECISION": "tf32"}]
    assert other.constants == [{"ROWS": 16}] * 2


@pytest.mark.usefixtures("matmul_precision")
def test_every_program_with_products_takes_the_precision(device: torch.device) -> None:
    """Launched so, they still agree with the reference within what TF32 rounds."""
    from manyhats.kernels.cuda.backend import CudaKernels
    from manyhats.kernels.cuda.programs import attention, low_rank, products
    from manyhats.kernels.cuda.self_check import fault

    programs = [low_rank.shrink, low_rank.expand, products.linear, products.masked_linear, attention.attend_rows]
    assert all("PRECISION" in program.arg_names for program in programs)
    torch.set_float32_matmul_precision("high")
    assert fault(device, CudaKernels) is None
