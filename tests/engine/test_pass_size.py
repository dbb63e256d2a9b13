"""How many tokens a pass has, by the device and its memory."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.backbone.device_memory import device_memory
from manyhats.engine import pass_size
from manyhats.engine.pass_size import default_batched_tokens, described
from manyhats.runtime import Runtime
from manyhats.settings import Settings

GIB = 1 << 30


def _on(device: str, *, hidden: int, widest: int, decoder: bool = True, dtype: torch.dtype = torch.bfloat16) -> Any:
    """What is asked of a backbone."""
    return SimpleNamespace(
        device=torch.device(device),
        dtype=dtype,
        hidden=hidden,
        has_language_model=decoder,
        linear={"mlp": SimpleNamespace(shape=(widest, hidden)), "lm_head": SimpleNamespace(shape=(128_256, hidden))},
        in_vocabulary_head=lambda name: name == "lm_head",
    )


LLAMA_8B = {"hidden": 4096, "widest": 14_336}
BERT = {"hidden": 768, "widest": 3072, "decoder": False, "dtype": torch.float32}


@pytest.mark.parametrize(
    ("shape", "free", "reserved", "tokens"),
    [
        (LLAMA_8B, 64 * GIB, 4 * GIB, 8192),
        (LLAMA_8B, 7 * GIB, 4 * GIB, 8192),
        (LLAMA_8B, 5 * GIB, 4 * GIB, 2048),
        (LLAMA_8B, 4 * GIB, 4 * GIB, 1024),  # an eighth of what there is
        (LLAMA_8B, GIB >> 3, 0, 512),  # the least
        (BERT, 70 * GIB, 2 * GIB, 16384),
        (BERT, 3 * GIB, 2 * GIB, 8192),
    ],
)
def test_as_many_as_fit_beside_adapters_and_cache(shape: dict[str, Any], free: int, reserved: int, tokens: int) -> None:
    assert default_batched_tokens(_on("cuda", **shape), reserved, free) == tokens


def test_what_the_device_says_is_free_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 9 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 7 * GIB)
    assert device_memory(torch.device("cuda")) == (5 * GIB, 80 * GIB)
    assert default_batched_tokens(_on("cuda", **LLAMA_8B), 4 * GIB) == 2048
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 6 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * GIB)
    assert device_memory(torch.device("mps")) == (4 * GIB, 6 * GIB)
    monkeypatch.setattr(pass_size, "device_memory", lambda device: None)
    assert default_batched_tokens(_on("cuda", **LLAMA_8B), 4 * GIB) == 8192


def test_a_cpu_has_passes_of_one_size() -> None:
    assert device_memory(torch.device("cpu")) is None
    assert default_batched_tokens(_on("cpu", **LLAMA_8B), 0) == 512
    assert default_batched_tokens(_on("cpu", **BERT), 0) == 2048


def test_the_doctor_says_it_for_a_backbone_that_is_not_known() -> None:
    assert described(torch.device("cpu")) == "2048, of a decoder 512"
    assert described(torch.device("cuda")).startswith("at most 16384, of a decoder 8192; fewer where")


def test_a_server_says_what_it_has_chosen(bert: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="manyhats"):
        chosen = Runtime(Settings(store=tmp_path / "one"), bert)
        assert "max_num_batched_tokens is 2048, chosen for cpu" in caplog.text
        caplog.clear()
        given = Runtime(Settings(store=tmp_path / "two", max_num_batched_tokens=100), bert)
        assert "chosen" not in caplog.text
    assert chosen.engine.scheduler.max_num_batched_tokens == 2048
    assert given.engine.scheduler.max_num_batched_tokens == 100
