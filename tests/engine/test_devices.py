"""The same answers on a GPU as on the CPU."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone, Text
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.engine.sampler import sample
from manyhats.engine.self_check import self_check
from manyhats.methods.plan import in_batch_order

from tests import tiny
from tests.engine.sampling_inputs import any_input, different

TEXTS = ["w1", "w2 w3 w4", " ".join(f"w{i}" for i in range(30))]


@pytest.mark.gpu
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_mixed_batch_on_cuda_equals_the_cpu(family: str, base_folder: Callable[[str], Path]) -> None:
    outputs = []
    for device in ("cpu", "cuda"):
        backbone = Backbone.load(str(base_folder(family)), device=device, dtype="float32")
        adapters = [
            tiny.adapter(backbone, method, 1).bind(backbone) for method in ("lora", "bottleneck", "prefix", "mask")
        ]
        encoded = backbone.tokenizer.encode([Text(t) for t in TEXTS], backbone.max_tokens)
        rows = [ForwardInput(e.ids, e.type_ids, a) for a in in_batch_order(adapters, lambda a: a) for e in encoded]
        with torch.inference_mode():
            outputs.append([output.float().cpu() for output in forward(backbone, rows)])
    for on_cpu, on_cuda in zip(*outputs, strict=True):
        torch.testing.assert_close(on_cuda, on_cpu, atol=tiny.CLOSE, rtol=tiny.CLOSE)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama", "mistral"])
def test_a_backbone_on_cuda_agrees_with_its_unmodified_model(
    family: str, dtype: str, base_folder: Callable[[str], Path]
) -> None:
    self_check(Backbone.load(str(base_folder(family)), device="cuda", dtype=dtype))


@pytest.mark.gpu
def test_attention_on_cuda_makes_no_plan_for_a_new_shape(base_folder: Callable[[str], Path]) -> None:
    """cuDNN's would, and in generation each step has shapes of its own."""
    backbone = Backbone.load(str(base_folder("llama")), device="cuda", dtype="bfloat16")
    with torch.profiler.profile(acc_events=True) as profile:
        for length in (5, 17, 33):
            tiny.ask(backbone, None, tiny.texts([length, 3]))
    ran = {event.key for event in profile.key_averages()}
    assert any("attention" in name for name in ran)
    assert not [name for name in ran if "cudnn_attention" in name]


@pytest.mark.gpu
@pytest.mark.parametrize("vocabulary", [50, 5001])
def test_tokens_that_are_sampled_on_cuda_equal_the_cpu(vocabulary: int) -> None:
    """Whatever the rows ask for, with two waits at most, of which torch warns."""
    source = random.Random(vocabulary)
    for _ in range(20):
        inputs = [any_input(vocabulary, source) for _ in range(16)]
        rows = different(len(inputs), vocabulary, source)
        expected = [one.token for one in sample(rows.clone(), inputs).tokens]
        there = rows.cuda()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                output = sample(there, inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert [one.token for one in output.tokens] == expected
        assert len([one for one in waits if "synchroniz" in str(one.message)]) <= 2
