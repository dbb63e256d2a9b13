"""`manyhats doctor`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
import torch
from manyhats import cli
from manyhats.commands import doctor
from manyhats.kernels.registry import BACKENDS
from typer.testing import CliRunner

from tests.commands.asking import Server, refused

NOBODY = "http://127.0.0.1:9"


def rows_of(*words: str | Path) -> dict[str, str]:
    result = CliRunner().invoke(cli.app, ["doctor", "--url", NOBODY, *map(str, words)], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    rows = [line.strip().split("  ", 1) for line in result.output.splitlines()]
    return {name: value.strip() for name, value in rows}


def test_it_says_what_would_be_used() -> None:
    rows = rows_of()
    assert rows["torch"] == torch.__version__
    assert rows["device that would be used"] in {"cpu", "cuda:0", "cuda", "mps"}
    assert rows["dtype that would be used"].startswith(("bfloat16", "float32"))
    assert rows["tokens of a pass"].split(",")[0].endswith(("2048", "16384"))


def test_it_says_what_adapters_may_take() -> None:
    rows = rows_of()
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
    rows = rows_of()
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


def test_it_says_memory_disk_store_and_that_no_server_answers(tmp_path: Path) -> None:
    rows = rows_of("--store", tmp_path / "[b]store")
    assert rows["disk of the store"].endswith(" free")
    assert rows["store"] == f"{tmp_path}/[b]store: not there yet; a server makes it"
    assert rows["server"].startswith(f"{NOBODY}: no answer from {NOBODY}: ")
    if sys.platform == "linux":
        assert rows["memory"].endswith(" GiB free")


def test_it_says_all_as_json(tmp_path: Path) -> None:
    words = ["doctor", "--json", "--url", NOBODY, "--store", str(tmp_path)]
    rows = json.loads(CliRunner().invoke(cli.app, words).output)
    assert rows["torch"] == torch.__version__
    assert rows["store"] == f"{tmp_path}: a folder that no server has used yet"


@pytest.mark.parametrize(("status", "state"), [(200, "ready"), (503, "starting or draining")])
def test_it_asks_the_server(server: Server, status: int, state: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/healthz":
                return httpx.Response(200, json={"status": "ok"})
            case "/readyz":
                return httpx.Response(status, json={"error": {"message": "not yet"}})
            case _:
                return httpx.Response(200, json={"data": [{"name": "spam"}, {"name": "ham"}]})

    server.answer = answer
    assert rows_of()["server"] == f"{NOBODY}: {state}, 2 tasks"


def test_a_server_that_wants_a_key_says_so(server: Server) -> None:
    server.answers({"error": {"message": "a key is needed"}}, 401)
    assert rows_of()["server"] == f"{NOBODY}: a key is needed"


def test_a_store_that_is_no_folder_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "setting 'store'" in refused(monkeypatch, capsys, "doctor", "--store", "s3://bucket", code=2)
