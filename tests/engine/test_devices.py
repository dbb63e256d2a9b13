"""The same answers on a GPU as on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from manyhats.backbone import Backbone, Text
from manyhats.engine.forward import Row, forward
from manyhats.methods.plan import batch_order

from tests import tiny

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
        rows = [Row(e.ids, e.type_ids, a) for a in sorted(adapters, key=batch_order) for e in encoded]
        with torch.inference_mode():
            outputs.append([output.float().cpu() for output in forward(backbone, rows)])
    for on_cpu, on_cuda in zip(*outputs, strict=True):
        torch.testing.assert_close(on_cuda, on_cpu, atol=tiny.CLOSE, rtol=tiny.CLOSE)
