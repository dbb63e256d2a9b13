"""The kernels are used where they can be, and where they cannot the reason is told."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest
import torch
from manyhats.errors import ConfigurationError
from manyhats.kernels.cuda import availability
from manyhats.kernels.reference import Reference
from manyhats.kernels.registry import Backend, choose, described

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One with all that is needed, until a test takes some of it away."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(availability.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(availability.shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr(availability.Path, "is_file", lambda self: True)
    return monkeypatch


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.setattr(availability.importlib.util, "find_spec", lambda name: None), "Triton is not installed"),
        (lambda m: m.setenv("TRITON_INTERPRET", "1"), "TRITON_INTERPRET is set"),
        (lambda m: m.setattr(torch.cuda, "is_available", lambda: False), "there is no CUDA device"),
        (lambda m: m.setattr(torch.cuda, "get_device_capability", lambda: (7, 5)), "capability 7.5, and 8.0 is needed"),
        (lambda m: m.setattr(availability.shutil, "which", lambda name: None), "Triton needs a C compiler"),
        (lambda m: m.setattr(availability.Path, "is_file", lambda self: False), "Triton needs Python's headers"),
    ],
)
def test_what_is_missing_is_told(machine: pytest.MonkeyPatch, change: Any, reason: str) -> None:
    machine.delenv("CC", raising=False)
    change(machine)
    assert reason in (availability.missing.__wrapped__() or "")


def test_another_device_gets_other_kernels() -> None:
    assert choose(CPU).name != "cuda"
    assert described(CPU)["cuda"] == "they work on cuda, and the backbone is on cpu"
    with pytest.raises(ConfigurationError, match="the kernels 'cuda' cannot be used: they work on cuda"):
        choose(CPU, "cuda")


def test_without_them_the_reference_is_chosen_and_the_reason_is_told(caplog: pytest.LogCaptureFixture) -> None:
    backends = {"cuda": Backend(mock.Mock(), frozenset({"cuda"}), lambda: "why not"), "reference": Backend(Reference)}
    with caplog.at_level(logging.INFO):
        assert isinstance(choose(CUDA, backends=backends), Reference)
    assert "the kernels 'cuda' cannot be used, which costs time, not answers: why not" in caplog.text


def test_the_programs_prove_themselves(device: torch.device) -> None:
    from manyhats.kernels.cuda.backend import CudaKernels
    from manyhats.kernels.cuda.self_check import fault

    assert fault(device) is None

    def refuses(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such instruction\nand more")

    assert (
        fault(device, lambda: CudaKernels(refuses))
        == "'low_rank' fails in torch.float32: RuntimeError: no such instruction"
    )

    class Wrong(CudaKernels):
        def sparse_add(self, *arguments: Any) -> None:
            super().sparse_add(*arguments)
            arguments[1][3, 0] += 1

    assert fault(device, Wrong) == "'sparse_add' in torch.float32 differs from the reference"

    class WrongWhereJoined(CudaKernels):
        def _joined_low_rank(self, x: Any, pairs: Any, segments: Any) -> None:
            super()._joined_low_rank(x, pairs, segments)
            pairs[2].y[3, 0] += 1

    assert fault(device, WrongWhereJoined) == "'joined_low_rank' in torch.float32 differs from the reference"
