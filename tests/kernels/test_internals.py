"""One test for each thing that kernels use of torch and transformers without being promised it."""

from __future__ import annotations

import sys

import pytest
import torch
from manyhats.kernels.activations import activation
from manyhats.kernels.cpu.library import _torch_openmp


def test_transformers_has_its_activations_by_name() -> None:
    """`transformers.activations.ACT2FN`, used by `kernels.activations` alone: adapter files name functions of it."""
    x = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(activation("gelu_new")(x), torch.nn.functional.gelu(x, approximate="tanh"))
    assert torch.equal(activation("relu")(x), x.relu())


@pytest.mark.skipif(sys.platform != "linux", reason="torch's library has another name")
def test_torchs_library_leads_to_its_openmp_runtime() -> None:
    """`torch/lib/libtorch_cpu.so`, used by `kernels.cpu.library` alone: the C library runs on torch's own threads."""
    if not torch.backends.openmp.is_available():
        pytest.skip("torch was built without OpenMP")
    assert _torch_openmp()
