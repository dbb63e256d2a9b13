"""`manyhats doctor`."""

from __future__ import annotations

import pytest
import torch
from manyhats import cli
from manyhats.commands import doctor
from manyhats.kernels.registry import BACKENDS
from typer.testing import CliRunner


def short_repr() -> dict[str, str]:
    result = CliRunner().invoke(cli.app, ["doctor"], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    rows = [line.strip().split("  ", 1) for line in result.output.splitlines()]
    return {name: value.strip() for name, value in rows}


def test_it_says_what_would_be_used() -> None:
    rows = short_repr()
    assert rows["torch"] == torch.__version__
    assert rows["device that would be used"] in {"cpu", "cuda:0", "cuda", "mps"}
    assert rows["dtype that would be used"].startswith(("bfloat16", "float32"))
    assert rows["tokens of a pass"].split(",")[0].endswith(("2048", "16384"))


def test_it_says_what_adapters_may_take() -> None:
    rows = short_repr()
    device = rows["device that would be used"]
    if device in {"cpu", "mps"}:
        assert rows["memory of the device"] == "the machine's"
        assert rows["slot_memory by default"] == f"2.0 GiB, the default on {device}"


def test_it_says_what_adapters_may_take_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhats.backbone.loading.choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("manyhats.kernels.registry.choose", lambda device: BACKENDS["reference"].make())
    monkeypatch.setattr("manyhats.kernels.registry.described", lambda device: {"cuda": "no"})
    monkeypatch.setattr("manyhats.backbone.precision.native_bfloat16", lambda device: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    rows = short_repr()
    assert rows["memory of the device"] == "60.0 GiB of 80.0 GiB free"
    assert rows["slot_memory by default"] == (
        "30.0 GiB, half of the 60.0 GiB that are free on cuda:0 now; a server takes half of what is free beside its "
        "backbone, and beside keys and values (cache_memory)"
    )


def test_it_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name = "A GPU"
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    assert doctor._cuda() == "A GPU, 80 GiB"
