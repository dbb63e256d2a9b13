from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.kernels.conftest import Refuses

if TYPE_CHECKING:
    from manyhats.kernels.cuda.backend import CudaKernels


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the programs run: on a CUDA device, or in Triton's interpreter on the CPU."""
    pytest.importorskip(
        "triton", reason="Triton is not installed: `pip install triton`; torch's wheels for CUDA bring it"
    )
    from tests.kernels.cuda.interpreter import DEVICE

    return DEVICE


@pytest.fixture
def kernels(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> CudaKernels:
    """The kernels in Triton, which the reference does not help; their own memory begins as NaN."""
    from manyhats.kernels.cuda import backend, row_attention

    class Poisoned:
        """torch, but for memory that nobody wrote to."""

        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

        @staticmethod
        def empty(*args: object, **kwargs: object) -> torch.Tensor:
            return torch.empty(*args, **kwargs).fill_(float("nan"))

    monkeypatch.setattr(backend, "torch", Poisoned())
    monkeypatch.setattr(row_attention, "torch", Poisoned())
    monkeypatch.setattr(backend, "Reference", Refuses)
    return backend.CudaKernels()
