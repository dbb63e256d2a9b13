"""What does not fit the backbone is refused, with the name and both shapes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch
from manyhats.kernels.activations import activation
from manyhats.methods.component import Component
from manyhats.methods.heads import Head, Layer
from manyhats.methods.lora import LoraConfig
from manyhats.methods.lora.vera import SharedMatrices
from manyhats.methods.mask import MaskConfig
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.registry import METHODS
from torch import Tensor

from tests import every, tiny

QUERY = "encoder.layer.0.attention.self.query"


def _with(part: Component, site: str, leaf: str, tensor: Tensor | None) -> Component:
    """The part with one tensor changed, or taken out."""
    leaves = {k: v for k, v in part.tensors[site].items() if k != leaf} | ({} if tensor is None else {leaf: tensor})
    return Component(part.method, part.config, dict(part.tensors) | {site: leaves})


def _refusal(backbone: Backbone, part: Component) -> str:
    with pytest.raises(AdapterMismatch) as caught:
        METHODS[part.method].check(part, backbone)
    return caught.value.message


def _site(part: Component) -> str:
    return QUERY if QUERY in part.tensors else next(iter(part.tensors))


LEAVES = [
    ("lora", "A", (3, 31), "[3, 31]", "[3, 32]"),
    ("lora", "B", (32, 4), "[32, 4]", "[32, 3]"),
    ("lora", "B", (33, 3), "[33, 3]", "[32, 3]"),
    ("bottleneck", "down.weight", (4, 16), "[4, 16]", "[4, 32]"),
    ("bottleneck", "down.bias", (5,), "[5]", "[4]"),
    ("bottleneck", "up.weight", (32, 5), "[32, 5]", "[32, 4]"),
    ("bottleneck", "up.bias", (4,), "[4]", "[32]"),
    ("bottleneck", "scaling", (2,), "[2]", "[32]"),
    ("bottleneck", "norm_after.weight", (31,), "[31]", "[32]"),
    ("prefix", "keys", (5, 4, 7), "[5, 4, 7]", "[5, 4, 8]"),
    ("prefix", "values", (4, 4, 8), "[4, 4, 8]", "[5, 4, 8]"),
]


def _flags(leaf: str) -> dict[str, bool]:
    """What a part's config says where it has this leaf."""
    return {"ln_after": True} if leaf.startswith("norm_after") else {}


@pytest.mark.parametrize(("method", "leaf", "shape", "stated", "wanted"), LEAVES)
def test_a_wrong_shape_names_both(bert: Backbone, method: str, leaf: str, shape: Any, stated: str, wanted: str) -> None:
    part = tiny.component(bert, method, 1, **_flags(leaf))
    message = _refusal(bert, _with(part, _site(part), leaf, torch.zeros(shape)))
    assert stated in message
    assert wanted in message
    assert bert.name in message


@pytest.mark.parametrize(("method", "leaf", "shape"), [row[:3] for row in LEAVES])
@pytest.mark.parametrize("dims", [0, 1, 4])
def test_a_wrong_number_of_dimensions(bert: Backbone, method: str, leaf: str, shape: Any, dims: int) -> None:
    part = tiny.component(bert, method, 1, **_flags(leaf))
    odd = (2,) * dims
    if len(shape) != dims:
        assert str(list(odd)) in _refusal(bert, _with(part, _site(part), leaf, torch.zeros(odd)))


@pytest.mark.parametrize(
    ("method", "leaf"),
    [
        ("lora", "A"),
        ("lora", "B"),
        ("bottleneck", "down.weight"),
        ("bottleneck", "down.bias"),
        ("bottleneck", "up.weight"),
        ("bottleneck", "up.bias"),
        ("prefix", "keys"),
        ("prefix", "values"),
        ("mask", "mask"),
    ],
)
def test_a_missing_leaf_is_named(bert: Backbone, method: str, leaf: str) -> None:
    part = tiny.component(bert, method, 1)
    assert f"no '{leaf}'" in _refusal(bert, _with(part, _site(part), leaf, None))


@pytest.mark.parametrize("flag", ["ln_before", "ln_after"])
def test_missing_norms(bert: Backbone, flag: str) -> None:
    leaf = flag.replace("ln_", "norm_") + ".weight"
    part = tiny.component(bert, "bottleneck", 1, **{flag: True})
    assert f"no '{leaf}'" in _refusal(bert, _with(part, _site(part), leaf, None))


def test_norms_that_the_config_does_not_have(bert: Backbone) -> None:
    part = _with(tiny.component(bert, "bottleneck", 1), "layers.1.ffn", "norm_before.weight", torch.ones(32))
    assert "no place for 'layers.1.ffn.norm_before.weight'" in _refusal(bert, part)


@pytest.mark.parametrize("method", ["lora", "bottleneck", "mask"])
def test_an_unknown_site(bert: Backbone, method: str) -> None:
    part = tiny.component(bert, method, 1)
    leaves = next(iter(part.tensors.values()))
    assert "no " in _refusal(bert, Component(method, part.config, {"layers.9.attention": leaves}))


def test_post_add_needs_a_norm_before(bert: Backbone) -> None:
    assert "post_add" in _refusal(bert, tiny.component(bert, "bottleneck", 1, residual_before_ln="post_add"))


@pytest.mark.parametrize("name", ["no_such", "", "prelu", "xielu"])
def test_unknown_activations(bert: Backbone, name: str) -> None:
    assert f"'{name}'" in _refusal(bert, tiny.component(bert, "bottleneck", 1, non_linearity=name))


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_new", "swish", "silu", "tanh", "leakyrelu", "LeakyReLU"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_known_activations_keep_type_and_shape(name: str, dtype: torch.dtype) -> None:
    states = torch.randn(3, 4, dtype=dtype)
    result = activation(name)(states)
    assert (result.dtype, result.shape) == (dtype, states.shape)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_a_prefix_for_other_layers(bert: Backbone, layers: int) -> None:
    part = tiny.component(bert, "prefix", 1)
    leaves = next(iter(part.tensors.values()))
    other = Component("prefix", part.config, {layer_site(i): leaves for i in range(layers)})
    assert f"for {layers} layers" in _refusal(bert, other)


@pytest.mark.parametrize("length", [tiny.MAX_TOKENS - 2, 500])
def test_a_prefix_longer_than_the_context(bert: Backbone, length: int) -> None:
    assert "no room" in _refusal(bert, tiny.component(bert, "prefix", 1, length=length))


def test_the_longest_prefix_leaves_room_for_one_word(bert: Backbone) -> None:
    adapter = tiny.adapter(bert, "prefix", 1, length=tiny.MAX_TOKENS - 3)
    (states,) = tiny.ask(bert, adapter, ["w1 w2 w3"])
    assert len(states) == 3


@pytest.mark.parametrize("shape", [(32, 31), (31, 32), (0, 0), (64, 16)])
def test_a_mask_for_another_weight(bert: Backbone, shape: tuple[int, int]) -> None:
    part = tiny.component(bert, "mask", 1)
    assert isinstance(part.config, MaskConfig)
    other = Component("mask", MaskConfig(shapes=part.config.shapes | {QUERY: shape}), part.tensors)
    message = _refusal(bert, other)
    assert str(list(shape)) in message
    assert "[32, 32]" in message


@pytest.mark.parametrize("mask", [torch.zeros(127, dtype=torch.uint8), torch.zeros(128), torch.zeros(32, 32).bool()])
def test_a_mask_of_the_wrong_size_or_type(bert: Backbone, mask: Tensor) -> None:
    _refusal(bert, _with(tiny.component(bert, "mask", 1), QUERY, "mask", mask))


def test_an_adapter_without_weights(bert: Backbone) -> None:
    adapter = tiny.adapter(bert, "lora", 1)
    with pytest.raises(AdapterMismatch, match="no weights for any layer"):
        replace(adapter, components=(Component("lora", adapter.components[0].config, {}),)).check(bert)


# ---- heads


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Layer(torch.zeros(3, 31), None),), "[3, 31]"),
        ((Layer(torch.zeros(3, 32), torch.zeros(4)),), "[4]"),
        ((Layer(torch.zeros(8, 32), None), Layer(torch.zeros(3, 9), None)), "[3, 9]"),
        ((Layer(torch.zeros(()), None),), "[]"),
        ((Layer(torch.zeros(3, 32), torch.zeros(())),), "[]"),
        ((Layer(torch.zeros(0, 32), None),), "no outputs"),
        ((), "no layers"),
        ((Layer(torch.zeros(3, 32), None, "no_such"),), "no_such"),
    ],
)
def test_heads_that_do_not_fit(bert: Backbone, layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(AdapterMismatch, match=re.escape(message)):
        Head("classify", "first", layers).check(bert)


def test_a_pooler_head_needs_a_pooler(load_backbone) -> None:
    head = Head("classify", "pooler", (Layer(torch.zeros(3, 32), None),))
    with pytest.raises(AdapterMismatch, match="no pooler weights"):
        head.check(load_backbone("distilbert"))


def test_prefix_config_of_another_length(bert: Backbone) -> None:
    part = tiny.component(bert, "prefix", 1)
    assert "[6, 4, 8]" in _refusal(bert, Component("prefix", PrefixConfig(length=6), part.tensors))


def _both(backbone: Backbone, *parts: Component, kind: Any = "embed") -> None:
    Adapter(components=parts, head=None, kind=kind, matched_tensors=1).check(backbone)


def test_an_invertible_adapter_before_a_language_model_head(load_backbone: Any) -> None:
    llama = load_backbone("llama")
    part = every.parts(llama)["invertible"]
    _both(llama, part)
    with pytest.raises(AdapterMismatch, match="undone before the language-model head"):
        _both(llama, part, kind="generate")


def test_prefixes_gated_and_not(bert: Backbone) -> None:
    plain, other = (tiny.component(bert, "prefix", seed) for seed in (1, 2))
    _both(bert, plain, other)
    gate = {"gate.weight": torch.ones(1, bert.hidden), "gate.bias": torch.ones(1)}
    gated = Component("prefix", other.config, {site: dict(leaves) | gate for site, leaves in other.tensors.items()})
    _both(bert, gated)
    with pytest.raises(AdapterMismatch, match="all are gated or none"):
        _both(bert, plain, gated)


# ---- leaves that are multiplied out


def _compacter(backbone: Backbone) -> Component:
    method = METHODS["bottleneck"]
    return method.trainable(backbone, {"kronecker": 2, "width": 4}, torch.Generator().manual_seed(1)).component()


@pytest.mark.parametrize(
    ("leaf", "shape", "stated"),
    [
        ("rule", (3, 2, 2), "has 3 products for matrices of 4 by 32"),
        ("rule", (2, 3, 2), "has shape [2, 3, 2]"),
        ("rule", (0, 2, 2), "has 0 products"),
        ("rule", (), "has 0 products"),
        ("down.left", (2, 16, 2), "has shape [2, 16, 2], but the backbone"),
        ("up.right", (2, 1, 15), "[2, 1, 16]"),
        ("down.bias", (1 << 22,), "4194304 by 32; it must divide both"),
        ("down.right", None, "has no 'down.right'"),
    ],
)
def test_a_compacters_factors(bert: Backbone, leaf: str, shape: tuple[int, ...] | None, stated: str) -> None:
    part = _compacter(bert)
    METHODS["bottleneck"].check(part, bert)
    assert METHODS["bottleneck"].rank(part) == 4
    assert METHODS["bottleneck"].slot_size(part, bert) == METHODS["bottleneck"].bind(part, bert).nbytes
    changed = _with(part, next(iter(part.tensors)), leaf, None if shape is None else torch.zeros(shape))
    assert stated in _refusal(bert, changed)


def _vera(backbone: Backbone) -> Component:
    return METHODS["lora"].trainable(backbone, {"variant": "vera", "rank": 6}, torch.Generator()).component()


@pytest.mark.parametrize(
    ("leaf", "shape", "stated"),
    [
        ("lambda_b", (31,), "has shape [31], but the backbone"),
        ("lambda_d", (7,), "has shape [7]"),
        ("lambda_d", None, "has no 'lambda_d'"),
    ],
)
def test_veras_vectors(bert: Backbone, leaf: str, shape: tuple[int, ...] | None, stated: str) -> None:
    part = _vera(bert)
    METHODS["lora"].check(part, bert)
    assert METHODS["lora"].rank(part) == 6
    assert METHODS["lora"].slot_size(part, bert) == METHODS["lora"].bind(part, bert).nbytes
    assert stated in _refusal(bert, _with(part, QUERY, leaf, None if shape is None else torch.zeros(shape)))


def test_veras_matrices_must_be_large_enough_and_not_too_large(bert: Backbone) -> None:
    part = _vera(bert)
    unscaled = replace(part, config=LoraConfig(scales={}))
    assert "has no scale for the LoRA at encoder.layer.0" in _refusal(bert, unscaled)
    small = replace(
        part,
        config=LoraConfig(scales=dict.fromkeys(part.tensors, 1.0), vera=SharedMatrices(rank=6, outputs=32, inputs=32)),
    )
    assert "are made for layers of at most 32 inputs and 32 outputs, but" in _refusal(bert, small)
    with pytest.raises(ValueError, match="at most 67108864"):
        SharedMatrices(rank=1 << 14, outputs=2048, inputs=2049)
