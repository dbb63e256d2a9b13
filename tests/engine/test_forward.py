"""One pass with its heads: pooling, the pooler, shapes and the order of outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.errors import ConfigurationError
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.heads import Head, Layer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

from tests import tiny

TEXTS = tiny.texts([3, 1, 12, 7], seed=41)


def test_pooling(backbone: Backbone) -> None:
    states = tiny.ask(backbone, None, TEXTS, pooling="none")
    assert [tuple(s.shape) for s in states] == [(5, 32), (3, 32), (14, 32), (9, 32)]
    expected = {"mean": [s.mean(0) for s in states], "cls": [s[0] for s in states], "last": [s[-1] for s in states]}
    for pooling, right in expected.items():
        assert tiny.difference(tiny.ask(backbone, None, TEXTS, pooling=pooling), right) < 1e-6


def test_poolings_side_by_side(bert: Backbone) -> None:
    """Rows of one segment may ask for different poolings."""
    ways = ["none", "last", "mean", "cls"]
    states = tiny.ask(bert, None, TEXTS)
    outputs = tiny.run(bert, [tiny.row(bert, tiny.BARE, t, way) for t, way in zip(TEXTS, ways, strict=True)])
    expected = [states[0], states[1][-1], states[2].mean(0), states[3][0]]
    assert tiny.difference(outputs, expected) < 1e-6


@pytest.mark.parametrize(
    ("kind", "labels", "shapes"),
    [("classify", 4, [(4,), (4,)]), ("regress", 1, [(1,), (1,)]), ("tokens", 6, [(5, 6), (3, 6)])],
)
def test_shapes_of_heads(backbone: Backbone, kind: Any, labels: int, shapes: list) -> None:
    for method in tiny.METHOD_NAMES:
        outputs = tiny.ask(backbone, tiny.adapter(backbone, method, 1, kind=kind, labels=labels), TEXTS[:2])
        assert [tuple(o.shape) for o in outputs] == shapes


def _head(kind: Any, reads: Any) -> Head:
    generator = torch.Generator().manual_seed(5)
    first = Layer(torch.randn(9, 32, generator=generator), torch.randn(9, generator=generator), "tanh")
    return Head(kind, reads, (first, Layer(torch.randn(3, 9, generator=generator), None)))


def _by_hand(head: Head, states: Tensor) -> Tensor:
    first, last = head.layers
    return F.linear(torch.tanh(F.linear(states, first.weight, first.bias)), last.weight)


def test_a_head_reads_the_first_token(backbone: Backbone) -> None:
    head = _head("classify", "first")
    bound = BoundAdapter("base", (), head)
    states = tiny.ask(backbone, None, TEXTS)
    assert tiny.difference(tiny.ask(backbone, bound, TEXTS), [_by_hand(head, s[0]) for s in states]) < 1e-5


def test_a_head_reads_every_token(backbone: Backbone) -> None:
    head = _head("tokens", "tokens")
    bound = BoundAdapter("base", (), head)
    states = tiny.ask(backbone, None, TEXTS)
    assert tiny.difference(tiny.ask(backbone, bound, TEXTS), [_by_hand(head, s) for s in states]) < 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_reads_the_pooler(load_backbone, family: str) -> None:
    backbone = load_backbone(family)
    head = _head("classify", "pooler")
    bound = BoundAdapter("base", (), head)
    model = AutoModel.from_pretrained(backbone.name).eval()
    with torch.inference_mode():
        ids = [torch.tensor([tiny.row(backbone, bound, t).ids]) for t in TEXTS]
        expected = [_by_hand(head, model(input_ids=i).pooler_output[0]) for i in ids]
    assert tiny.difference(tiny.ask(backbone, bound, TEXTS), expected) < 1e-4


def test_a_backbone_without_a_pooler(load_backbone) -> None:
    bound = BoundAdapter("base", (), _head("classify", "pooler"))
    backbone = load_backbone("distilbert")
    with pytest.raises(ConfigurationError, match="no pooler"):
        tiny.ask(backbone, bound, TEXTS)
    tiny.ask(backbone, None, TEXTS)


@pytest.mark.parametrize("method", ["lora", "mask"])
def test_adapters_act_on_the_pooler(bert: Backbone, method: str) -> None:
    """Each on its own row, beside heads that read the pooler without acting on it and heads that do not read it."""
    only = tiny.component(bert, method, 1, only="pooler")
    assert list(only.tensors) == ["pooler.dense"]
    head = _head("classify", "pooler")
    acting = Adapter(components=(only,), head=head, kind="classify", matched_tensors=2).bind(bert)
    plain = BoundAdapter("base", (), head)
    tokens = tiny.bound(bert, tiny.adapter(bert, "lora", 2, kind="tokens"))

    pooler = AutoModel.from_pretrained(bert.name).eval().pooler.dense
    weight = pooler.weight.detach()
    if method == "lora":
        scale = only.config.scales["pooler.dense"]
        changed = weight + scale * only.tensors["pooler.dense"]["B"] @ only.tensors["pooler.dense"]["A"]
    else:
        from manyhats.kernels.reference import unpack_bits

        changed = weight * unpack_bits(only.tensors["pooler.dense"]["mask"], (32, 32))
    firsts = [s[0] for s in tiny.ask(bert, None, TEXTS)]
    bias = pooler.bias.detach()
    expected = {
        acting: [_by_hand(head, torch.tanh(F.linear(f, changed, bias))) for f in firsts],
        plain: [_by_hand(head, torch.tanh(F.linear(f, weight, bias))) for f in firsts],
        tokens: tiny.alone(bert, tokens, TEXTS),
    }
    picks = [(a, i) for i in range(len(TEXTS)) for a in (tokens, acting, plain)]
    outputs = tiny.run(bert, [tiny.row(bert, a, TEXTS[i]) for a, i in picks])
    assert tiny.difference(outputs, [expected[a][i] for a, i in picks]) < 1e-5
    assert tiny.difference(expected[acting], expected[plain]) > 0.01


def test_outputs_stand_in_the_rows_order(backbone: Backbone) -> None:
    one, other = (
        tiny.bound(backbone, tiny.adapter(backbone, "lora", i, kind="classify", labels=2 + i)) for i in (1, 2)
    )
    bound = [one, one, tiny.BARE, other, other, one]
    texts = [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[0], TEXTS[3], TEXTS[2]]
    rows = [tiny.row(backbone, a, t) for a, t in zip(bound, texts, strict=True)]
    with torch.inference_mode():
        outputs = forward(backbone, rows)
    expected = [tiny.alone(backbone, a, [t])[0] for a, t in zip(bound, texts, strict=True)]
    assert tiny.difference(outputs, expected) < tiny.CLOSE


def test_token_types_above_the_models_are_lowered(load_backbone) -> None:
    """RoBERTa has one type; a tokenizer may name two."""
    backbone = load_backbone("roberta")
    row = tiny.row(backbone, tiny.BARE, TEXTS[0])
    odd = ForwardInput(row.ids, [1] * len(row.ids), row.adapter, "none")
    assert tiny.difference(tiny.run(backbone, [odd]), tiny.run(backbone, [row])) == 0


def test_outputs_need_no_gradient(bert: Backbone) -> None:
    assert not any(o.requires_grad for o in tiny.ask(bert, tiny.adapter(bert, "lora", 1, kind="classify"), TEXTS))
