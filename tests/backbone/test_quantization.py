"""A backbone with its linear weights in 8 bits: answers, refusals, memory."""

from __future__ import annotations

import gc
import importlib.util
import logging
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.backbone.loading import load_model
from manyhats.backbone.prepacking import prepack
from manyhats.backbone.quantization import check_quantization
from manyhats.core.adapter import Adapter
from manyhats.engine.self_check import self_check
from manyhats.errors import ConfigurationError, WrongAnswers, WrongSetting
from manyhats.runtime import Runtime
from manyhats.settings import Settings, load_settings
from torch import Tensor

from tests import every, tiny
from tests.launches.passes import MIXTURE, Decoding, adapters_of, tasks_of

HERE = importlib.util.find_spec("torchao") is not None
needs_torchao = pytest.mark.skipif(not HERE, reason="torchao is not installed: `make install` brings it")
CPU = torch.device("cpu")
CASES = [(family, name) for family in ("bert", "llama") for name in ("int8", "fp8")]


@pytest.fixture(scope="module")
def pair(base_folder: Callable[[str], Path]) -> Callable[[str, str], tuple[Backbone, Backbone]]:
    """A quantised backbone, and a plain one that has the weights that the other's stand for."""

    @cache
    def made(family: str, name: str) -> tuple[Backbone, Backbone]:
        folder = str(base_folder(family))
        quantized = Backbone.load(folder, device="cpu", dtype="float32", quantization=name)
        plain = tiny.load(base_folder(family))
        for path, site in quantized.linear.items():
            if site.quantized:
                plain.linear[path].module.weight.data.copy_(site.weight)
        return quantized, plain

    return made


# ---- answers


@needs_torchao
@pytest.mark.parametrize("method", [*every.ALL, "stack", "lora+ia3", "dora"])
@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_method_acts_as_on_the_weights_that_are_stood_for(family: str, name: str, method: str, pair: Any) -> None:
    quantized, plain = pair(family, name)
    adapter = _dora(plain) if method == "dora" else every.adapters(plain, 3).get(method)
    if adapter is None:
        return  # not for this family
    texts = tiny.texts([3, 11, 24])
    expected = tiny.ask(plain, adapter, texts)
    assert tiny.difference(tiny.ask(quantized, adapter, texts), expected) < tiny.CLOSE
    assert tiny.difference(tiny.ask(plain, None, texts), expected) > tiny.CLOSE


@needs_torchao
@pytest.mark.parametrize(("family", "name"), CASES)
def test_all_methods_in_one_batch(family: str, name: str, pair: Any) -> None:
    answers = []
    for backbone in pair(family, name):
        bound = [tiny.bound(backbone, one) for one in [None, *every.adapters(backbone, 5).values()]]
        texts = tiny.texts([1 + i * 7 % 23 for i in range(2 * len(bound))])
        answers.append(tiny.run(backbone, [tiny.row(backbone, bound[i % len(bound)], t) for i, t in enumerate(texts)]))
    assert tiny.difference(*answers) < tiny.CLOSE


@needs_torchao
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_texts_of_mixed_tasks(name: str, pair: Any) -> None:
    texts = []
    for backbone in pair("llama", name):
        tasks = tasks_of(backbone, adapters_of(backbone), "mixture", len(MIXTURE))
        decoding = Decoding(backbone, tasks, len(MIXTURE))
        for _ in range(4):
            decoding.step()
        texts.append([list(sequence.output) for sequence in decoding._scheduler.running])
    assert len(texts[0]) == len(MIXTURE)
    assert texts[0] == texts[1]


@needs_torchao
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "llama", "qwen3", "gpt_neox", "opt"])
def test_every_family_agrees_with_its_quantised_model(family: str, dtype: str, base_folder: Any) -> None:
    backbone = Backbone.load(str(base_folder(family)), device="cpu", dtype=dtype, quantization="int8")
    quantized = [site for site in backbone.linear.values() if site.quantized]
    assert len(quantized) >= 6
    self_check(backbone)
    assert backbone.sha256 == tiny.load(base_folder(family)).sha256  # the checkpoint's
    with torch.no_grad():
        quantized[-1].module.weight = torch.nn.Parameter(quantized[-1].weight * 2, requires_grad=False)
    quantized[-1].quantized = False
    with pytest.raises(WrongAnswers):  # compared with the quantised model, whatever becomes of the backbone's
        self_check(backbone)


# ---- what is quantised


@needs_torchao
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_weights_are_held_once_and_in_8_bits(name: str, base_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    full: dict[str, weakref.ref[Tensor]] = {}

    def load(source: str) -> Any:
        loaded = load_model(source)
        weights = {n: m.weight for n, m in loaded.model.named_modules() if getattr(m, "weight", None) is not None}
        full.update({n: weakref.ref(weight) for n, weight in weights.items()})
        return loaded

    monkeypatch.setattr("manyhats.backbone.loading.load_model", load)
    backbone = Backbone.load(str(base_folder("llama")), device="cpu", dtype="float32", quantization=name)
    gc.collect()
    original: Any = backbone.original
    shared = dict(original.base_model.named_modules())
    for path, site in backbone.linear.items():
        assert site.quantized == (path != "lm_head")
        if site.quantized:
            weight = site.module.weight
            assert shared[path].weight is weight
            assert weight.qdata.element_size() == 1
            assert site.shape == tuple(weight.shape) == tuple(site.weight.shape)
            assert site.weight.dtype == torch.float32
            assert not weight.requires_grad
    gone = {name for name, weight in full.items() if weight() is None}
    assert gone == {name for name, site in backbone.linear.items() if site.quantized}


@needs_torchao
def test_nothing_of_it_is_prepacked(base_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyhats.backbone.prepacking._min_rows", lambda weight, bias: 1)
    backbone = Backbone.load(str(base_folder("bert")), device="cpu", dtype="float32", quantization="int8")
    prepack(backbone.linear.values(), backbone.joined)
    assert all(layer.prepacked is None for layer in backbone.joined)
    assert all(site.prepacked is None for site in backbone.linear.values() if site.quantized)
    assert backbone.linear["pooler.dense"].prepacked is not None


@needs_torchao
def test_the_log_says_it(base_folder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="manyhats"):
        settings = Settings(backbone=str(base_folder("bert")), device="cpu", quantization="fp8", store=tmp_path)
        runtime = Runtime(settings)
    assert "with linear layers in fp8 on cpu" in caplog.text
    assert any(site.quantized for site in runtime.backbone.linear.values())


# ---- refusals


@needs_torchao
def test_other_layers_than_torchs_are_refused(base_folder: Any) -> None:
    with pytest.raises(ConfigurationError, match="gpt2 models are of another class, Conv1D"):
        Backbone.load(str(base_folder("gpt2")), device="cpu", quantization="int8")


@needs_torchao
def test_int8_is_refused_in_float16(base_folder: Any) -> None:
    with pytest.raises(ConfigurationError, match="overflow in float16"):
        Backbone.load(str(base_folder("bert")), device="cpu", dtype="float16", quantization="int8")
    check_quantization("fp8", CPU, torch.float16)


@needs_torchao
def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'int3' is not known; these are: none, int8, fp8"):
        check_quantization("int3", CPU)
    with pytest.raises(WrongSetting, match="quantization"):
        load_settings(quantization="int3")


def test_a_device_that_torchao_does_not_support_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="works on cpu and cuda, and the backbone is on mps"):
        check_quantization("int8", torch.device("mps"))
    check_quantization("none", torch.device("mps"))


def test_without_torchao_it_says_what_to_install(base_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigurationError, match=r"needs torchao: pip install 'manyhats\[quantized\]'"):
        Backbone.load(str(base_folder("bert")), device="cpu", quantization="int8")


def _dora(backbone: Backbone) -> Adapter:
    """A LoRA with magnitudes, whose gain is of the weight's norms."""
    adapter = tiny.adapter(backbone, "lora", 3)
    (part,) = adapter.components
    tensors = {
        site: dict(leaves) | {"magnitude": torch.linspace(0.5, 2, backbone.linear[site].shape[0])}
        for site, leaves in part.tensors.items()
    }
    config = part.config.model_copy(update={"dora": "peft"})
    return replace(adapter, components=(replace(part, config=config, tensors=tensors),))
