"""A backbone whose packed pass is not its model's own is found before anything is answered."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manyhats import cli
from manyhats.backbone import Backbone, attention, packing
from manyhats.backbone.attention import PACKED_ATTENTION, packed_attention
from manyhats.backbone.attention_layout import AttentionLayout
from manyhats.engine import self_check as module
from manyhats.engine.self_check import self_check
from manyhats.errors import ConfigurationError, UnsupportedAttention, WrongAnswers
from manyhats.runtime import Runtime
from manyhats.settings import Settings
from torch import Tensor
from transformers import AttentionInterface

from tests import tiny

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", tiny.ALL_FAMILIES)
def test_every_family_agrees_with_its_model(
    family: str, dtype: str, base_folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = Backbone.load(str(base_folder(family)), device="cpu", dtype=dtype)
    with caplog.at_level(logging.INFO, logger="manyhats"):
        self_check(backbone)
    assert "agree with the unmodified model within" in caplog.text


@pytest.mark.real
def test_the_real_backbone_agrees(real_backbone: Backbone) -> None:
    self_check(real_backbone)


# ---- faults of the packed pass; each is right for a sequence alone


def _sees_its_neighbours(patch: pytest.MonkeyPatch) -> None:
    """As with a version of transformers that makes no difference between sequences side by side."""

    def attend(self: Any, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: Any, window: Any) -> Tensor:
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, scale=scaling, enable_gqa=True, is_causal=self._causal
        )
        return out[0].transpose(0, 1)

    patch.setattr(AttentionLayout, "attend", attend)


def _positions_run_on(patch: pytest.MonkeyPatch) -> None:
    """Positions that count through the whole batch."""
    pack = packing.pack_chunks

    def wrong(backbone: Backbone, *args: Any, **options: Any) -> Any:
        batch = pack(backbone, *args, **options)
        first = backbone.family.first_position(backbone.config)
        running = batch.staging.host("position_ids")  # it has not been copied to the device yet
        running[:] = np.arange(len(running)) % (backbone.max_tokens - first) + first
        return batch

    patch.setattr("manyhats.engine.forward.pack_chunks", wrong)


def _another_scale(patch: pytest.MonkeyPatch) -> None:
    attend = AttentionLayout.attend
    patch.setattr(
        AttentionLayout,
        "attend",
        lambda self, layer, q, k, v, scaling, window: attend(self, layer, q, k, v, (scaling or 0.35) * 1.5, window),
    )


def _no_window(patch: pytest.MonkeyPatch) -> None:
    attend = AttentionLayout.attend
    patch.setattr(
        AttentionLayout,
        "attend",
        lambda self, layer, q, k, v, scaling, window: attend(self, layer, q, k, v, scaling, None),
    )


def _not_a_number(patch: pytest.MonkeyPatch) -> None:
    attend = AttentionLayout.attend
    patch.setattr(AttentionLayout, "attend", lambda self, *given: attend(self, *given) * float("nan"))


@pytest.mark.parametrize(
    ("family", "plant"),
    [
        ("bert", _sees_its_neighbours),
        ("llama", _sees_its_neighbours),
        ("roberta", _positions_run_on),
        ("qwen3", _positions_run_on),
        ("distilbert", _another_scale),
        ("modernbert", _no_window),
        ("mistral", _no_window),
        ("gpt2", _not_a_number),
    ],
)
def test_a_wrong_packed_pass_is_found(
    family: str, plant: Plant, load_backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(WrongAnswers, match=r"^the packed pass of \d sequences together differs") as caught:
        self_check(load_backbone(family))
    assert f"transformers {__import__('transformers').__version__}" in caught.value.message
    assert f"torch {torch.__version__}" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("family", "plant"), [("bert", _sees_its_neighbours), ("llama", _sees_its_neighbours), ("gpt2", _not_a_number)]
)
def test_it_is_found_in_the_half_types_too(
    family: str, plant: Plant, dtype: str, base_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(str(base_folder(family)), device="cpu", dtype=dtype)
    self_check(backbone)
    plant(monkeypatch)
    with pytest.raises(WrongAnswers, match="the packed pass"):
        self_check(backbone)


def test_what_rounding_does_by_itself_is_measured(base_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a deep model in a half type is not refused for it."""
    backbone = Backbone.load(str(base_folder("llama")), device="cpu", dtype="bfloat16")
    monkeypatch.setattr(module, "_TOLERANCE", {torch.bfloat16: 1e-9})
    self_check(backbone)
    monkeypatch.setattr(module, "_NOISE_FACTOR", 1e-9)
    with pytest.raises(WrongAnswers):
        self_check(backbone)
    assert backbone.original is not None
    assert backbone.original.config._attn_implementation == "sdpa"


def test_a_pass_that_fails_is_one_line_too(load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(*_: Any) -> Tensor:
        raise TypeError("forward() got an unexpected keyword argument 'position_ids'\nand more")

    monkeypatch.setattr(AttentionLayout, "attend", attend)
    with pytest.raises(WrongAnswers, match="fails: TypeError: forward") as caught:
        self_check(load_backbone("bert"))
    assert "\n" not in caught.value.message


def test_a_device_that_is_full_is_no_wrong_answer(load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AttentionLayout, "attend", attend)
    with pytest.raises(ConfigurationError, match="no memory left on cpu for one pass of 87 tokens") as caught:
        self_check(load_backbone("bert"))
    assert not isinstance(caught.value, WrongAnswers)


def test_sequences_alone_would_have_passed(load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the check asks several at once."""
    _sees_its_neighbours(monkeypatch)
    monkeypatch.setattr(module, "_LENGTHS", (24,))
    self_check(load_backbone("bert"))


# ---- faults of the cached steps


def _forgets_the_first_row(patch: pytest.MonkeyPatch) -> None:
    made = AttentionLayout.__init__

    def fewer(chunk: Any) -> Any:
        rows = chunk.cache_rows
        return chunk if rows is None or len(rows) == chunk.length else chunk._replace(cache_rows=rows[1:])

    def init(self: Any, chunks: Any, *args: Any, **options: Any) -> None:
        made(self, [fewer(chunk) for chunk in chunks], *args, **options)

    patch.setattr(AttentionLayout, "__init__", init)


def _positions_start_again(patch: pytest.MonkeyPatch) -> None:
    pack = packing.pack_chunks

    def wrong(backbone: Backbone, cache: Any, chunks: Any) -> Any:
        return pack(backbone, cache, [chunk._replace(start=0) for chunk in chunks])

    patch.setattr(module, "pack_chunks", wrong)


@pytest.mark.parametrize("plant", [_forgets_the_first_row, _positions_start_again])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_wrong_cached_step_is_found(
    family: str, plant: Plant, load_backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(WrongAnswers, match=r"^a cached step of \d sequences together differs"):
        self_check(load_backbone(family))


# ---- arguments of attention


@pytest.fixture
def handing_over(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes every model hand its attention one more argument."""

    def plant(name: str, value: Any) -> None:
        def called(*args: Any, **options: Any) -> Any:
            if name == "attention_mask":
                args = (*args[:4], value)
            return packed_attention(*args, **options | ({} if name == "attention_mask" else {name: value}))

        AttentionInterface.register(PACKED_ATTENTION, called)

    yield plant
    attention.register()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("softcap", 30.0),
        ("s_aux", torch.ones(4)),
        ("position_bias", torch.zeros(1, 4, 2, 2)),
        ("attention_mask", torch.zeros(1, 1, 2, 2)),
        ("encoder_hidden_states", torch.zeros(1, 2, 32)),
        ("dropout", 0.1),
        ("is_causal", False),
        ("what_next_year_brings", 0),
    ],
)
@pytest.mark.parametrize("family", ["distilbert", "llama"])
def test_an_argument_that_is_not_followed_is_refused(
    family: str, name: str, value: Any, load_backbone: Any, handing_over: Any
) -> None:
    backbone = load_backbone(family)  # before the plant: loading registers the attention again
    handing_over(name, value)
    with pytest.raises(UnsupportedAttention, match=f"hands its attention `{name}`"):
        self_check(backbone)


@pytest.mark.parametrize("family", ["llama", "gpt2", "modernbert", "albert", "bert"])
def test_an_argument_by_place_is_refused_too(family: str, load_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks whose forward stands in for transformers' own get whatever the model hands them."""
    backbone = load_backbone(family)
    block = backbone.model.get_submodule(backbone.family.block_name(backbone.config, 0))
    plain = block.forward
    monkeypatch.setattr(
        block, "forward", lambda states, *_, **options: plain(states, torch.zeros(1, 1, 2, 2), **options)
    )
    with pytest.raises(UnsupportedAttention, match=r"hands its attention `(argument 1|attention_mask)`"):
        self_check(backbone)


def test_none_and_what_has_no_effect_are_taken(load_backbone: Any, handing_over: Any) -> None:
    backbone = load_backbone("llama")
    for name, value in (("softcap", None), ("position_ids", torch.zeros(1, 3)), ("use_cache", False), ("dropout", 0.0)):
        handing_over(name, value)
        self_check(backbone)


# ---- the server


def test_the_server_ends_with_one_line(
    base_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _sees_its_neighbours(monkeypatch)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process has tests to run
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: pytest.fail("it listens"))
    words = [
        "serve",
        "--backbone",
        str(base_folder("bert")),
        "--store",
        str(tmp_path),
        "--dtype",
        "float32",
        "--port",
        "0",
    ]
    monkeypatch.setattr(sys, "argv", ["manyhats", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("manyhats: ")]
    assert ended.value.code == 1
    assert len(said) == 1
    assert "differs from the unmodified model" in said[0]


def test_it_can_be_left_out_and_the_log_says_so(
    load_backbone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _sees_its_neighbours(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="manyhats"):
        Runtime(Settings(store=tmp_path, self_check=False), load_backbone("bert"))
    assert "self_check is off" in caplog.text
    with pytest.raises(WrongAnswers):
        Runtime(Settings(store=tmp_path), load_backbone("bert"))


def test_the_original_shares_its_weights(bert: Backbone) -> None:
    """They are there once: the reference costs no memory."""
    assert bert.original is not None
    own = {p.data_ptr() for p in bert.model.parameters()}
    pooler = [p.data_ptr() for name, p in bert.original.named_parameters() if name.startswith("pooler.")]
    assert {p.data_ptr() for p in bert.original.parameters()} - set(pooler) == own
    assert bert.original.config is not bert.config
    assert bert.original.config._attn_implementation == "sdpa"
