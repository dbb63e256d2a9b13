"""`manyhats doctor`."""

from __future__ import annotations

import pytest
import torch
from manyhats import cli
from manyhats.commands import doctor
from typer.testing import CliRunner


def short_repr() -> dict[str, str]:
    result = CliRunner().invoke(cli.app, ["doctor"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    rows = [line.strip().split("  ", 1) for line in result.output.splitlines()]
    return {name: value.strip() for name, value in rows}


def test_it_says_what_would_be_used() -> None:
    rows = short_repr()
    assert rows["torch"] == torch.__version__
    assert rows["device that would be used"] in {"cpu", "cuda:0", "cuda", "mps"}
    assert rows["dtype that would be used"].startswith(("bfloat16", "float32"))
    assert rows["tokens of a pass"].split(",")[0].endswith(("2048", "16384"))


def test_it_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name = "A GPU"
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    assert doctor._cuda() == "A GPU, 80 GiB"
