"""Norms in one launch: the same numbers as the module's own, and only where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.fused_norms import FusedNorm, use_fused_norms
from manyhats.methods.slots import SlotTables
from torch import Tensor

from tests import tiny

pytest.importorskip("triton", reason="Triton is not installed; the extra `cuda` brings it")

from tests.kernels.cuda.interpreter import DEVICE

from manyhats.kernels.cuda.backend import CudaKernels  # isort: skip

TYPES = ("float32", "bfloat16", "float16")


def _backbone(folder: Path, dtype: str = "float32", kernels: Any = None) -> Backbone:
    backbone = Backbone.load(str(folder), device=str(DEVICE), dtype=dtype)
    backbone.kept[SlotTables] = SlotTables(kernels or CudaKernels())
    return backbone


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base("llama", tmp_path_factory.mktemp("llama"), layers=1)


@pytest.mark.parametrize("dtype", TYPES)
@torch.inference_mode()
def test_all_norms_of_a_llama_compute_what_they_did(llama: Path, dtype: str) -> None:
    backbone = _backbone(llama, dtype)
    assert use_fused_norms(backbone) == len(backbone.norm) == 3
    site = next(iter(backbone.norm.values()))
    assert isinstance(site.plain, FusedNorm)
    x = torch.randn(2, 7, backbone.hidden, device=backbone.device).to(backbone.dtype)
    found, wanted = site.plain(x), site.plain.plain(x)
    assert found.dtype is wanted.dtype is backbone.dtype
    assert found.shape == x.shape
    bits = torch.finfo(backbone.dtype).eps
    torch.testing.assert_close(found, wanted, rtol=2 * bits, atol=1e-6)  # the order of the sum


def test_what_the_kernel_does_not_compute_is_left_to_the_module(llama: Path) -> None:
    backbone = _backbone(llama)
    use_fused_norms(backbone)
    site = next(iter(backbone.norm.values()))
    assert isinstance(site.plain, FusedNorm)
    x = torch.randn(4, backbone.hidden, 3, device=backbone.device).transpose(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(site.plain(x), site.plain.plain(x))
    y = torch.randn(4, backbone.hidden, device=backbone.device, requires_grad=True)
    site.plain(y).sum().backward()
    assert y.grad is not None


def test_norms_of_other_kinds_and_other_kernels_stay(llama: Path, tmp_path: Path) -> None:
    assert use_fused_norms(_backbone(tiny.write_base("bert", tmp_path))) == 0
    backbone = _backbone(llama)
    assert use_fused_norms(backbone) == use_fused_norms(backbone) == 3
    backbone.kept[SlotTables].kernels.rms_norm = None
    assert use_fused_norms(backbone) == 0
    assert not any(isinstance(site.plain, FusedNorm) for site in backbone.norm.values())


def test_one_that_computes_something_else_is_not_used(llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    kernels = CudaKernels()

    def other(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        return x * gain

    def fails(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        raise RuntimeError("no ptxas here")

    for wrong in (other, fails):
        kernels.rms_norm = wrong
        assert use_fused_norms(_backbone(llama, kernels=kernels)) == 0
    assert "norms are left to torch: RuntimeError: no ptxas here" in caplog.text
