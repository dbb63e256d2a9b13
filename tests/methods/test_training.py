"""Training runs the serving forward: gradients reach a method's own parameters alone; what is saved was trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.engine.forward import forward
from manyhats.errors import InvalidRequest
from manyhats.kernels.reference import unpack_bits
from manyhats.methods.base import Trainable
from manyhats.methods.bound_adapter import BoundAdapter
from manyhats.methods.mask import pack_bits
from manyhats.methods.options import Options
from manyhats.methods.registry import METHODS

from tests import tiny

TEXTS = tiny.texts([3, 12, 25], seed=21)

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("lora", {"rank": 2, "alpha": 7, "targets": "query,value"}),
    ("bottleneck", {}),
    ("bottleneck", {"placement": "pfeiffer", "width": 3, "non_linearity": "tanh"}),
    ("bottleneck", {"placement": "parallel"}),
    ("prefix", {"length": 4}),
    ("prefix", {"length": 6, "reparametrisation": 7}),
    ("lora", {"variant": "dora"}),
    ("lora", {"variant": "rslora", "rank": 4}),
    ("prompt", {"length": 3}),
    ("prompt", {"length": 3, "encoder": "lstm"}),
    ("prompt", {"length": 3, "encoder": "mlp"}),
    ("ia3", {}),
    ("parameters", {}),
    ("parameters", {"which": "norms"}),
    ("parameters", {"which": "all"}),
    ("side", {}),
    ("side", {"layers": 2, "start": "fresh"}),
    ("mask", {}),
    ("mask", {"first_layer": 1, "initial_sparsity": 0.4}),
    ("lora", {"gated": "yes"}),
    ("lora", {"variant": "vera", "rank": 16}),
    ("lora", {"variant": "vera", "rank": 8, "targets": "query,value", "key": 5}),
    ("prefix", {"length": 4, "gated": "yes"}),
    ("bottleneck", {"placement": "pfeiffer", "gated": "yes", "non_linearity": "tanh"}),
    ("bottleneck", {"kronecker": 2, "width": 4}),
    ("invertible", {}),
    ("invertible", {"width": 3, "non_linearity": "gelu"}),
    ("token_rows", {"tokens": [*TEXTS[0].split(), "7"]}),
]
_IDS = [f"{method}{i}" for i, (method, _) in enumerate(OPTIONS)]


def _options(backbone: Backbone, options: dict[str, Any]) -> dict[str, Any]:
    """The same linear layers, as the family calls them."""
    if backbone.config.model_type == "distilbert" and "targets" in options:
        return options | {"targets": ["q_lin", "v_lin"]}
    return options


def _trainable(backbone: Backbone, method: str, options: dict[str, Any], seed: int = 0) -> Trainable:
    return METHODS[method].trainable(backbone, _options(backbone, options), torch.Generator().manual_seed(seed))


def _bound(backbone: Backbone, trainable: Trainable, method: str) -> BoundAdapter:
    head = tiny.head(backbone, "classify", 3, 5)
    return BoundAdapter(method, ((METHODS[method], trainable.bound()),), head)


def _logits(backbone: Backbone, bound: BoundAdapter) -> torch.Tensor:
    return torch.stack(forward(backbone, [tiny.row(backbone, bound, text) for text in TEXTS]))


@torch.no_grad()
def _shake(trainable: Trainable, method: str) -> None:
    """Moves the parameters, so that those that start from zero matter."""
    generator = torch.Generator().manual_seed(3)
    for parameter in trainable.parameters():
        spread = {"mask": 0.01, "parameters": 0.02, "side": 0.02}.get(method, 0.2)
        parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)


@pytest.mark.parametrize(("method", "options"), OPTIONS, ids=_IDS)
def test_gradients_reach_only_the_methods_parameters(backbone: Backbone, method: str, options: dict) -> None:
    trainable = _trainable(backbone, method, options)
    _shake(trainable, method)
    loss = _logits(backbone, _bound(backbone, trainable, method)).square().sum()
    loss.backward()
    names = [name for name, parameter in trainable.named_parameters() if parameter.requires_grad]
    grads = [trainable.get_parameter(name).grad for name in names]
    assert grads
    if method == "parameters":  # of the tables, and of a pooler, this batch uses little
        grads = [grad for grad in grads if grad is not None]
    assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in grads)
    assert all(bool(grad.any()) for grad in grads if grad is not None) or method == "parameters"
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


# A mask's gradient passes straight through, and DoRA's norm counts as a constant: their gradients are no slopes.
SLOPES = [(m, o) for m, o in OPTIONS if m != "mask" and o.get("variant") != "dora"]


@pytest.mark.parametrize(("method", "options"), SLOPES, ids=[_IDS[OPTIONS.index(one)] for one in SLOPES])
def test_gradients_are_the_slopes(bert: Backbone, method: str, options: dict) -> None:
    """Against differences of the loss."""
    trainable = _trainable(bert, method, options)
    _shake(trainable, method)

    def loss() -> torch.Tensor:
        return _logits(bert, _bound(bert, trainable, method)).sum()

    loss().backward()
    parameter = next(iter(trainable.parameters()))
    assert parameter.grad is not None
    place = int(parameter.grad.abs().argmax())
    slope, step = float(parameter.grad.flatten()[place]), 1e-3
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.view(-1)[place] += sign * step
            losses.append(float(loss()))
            parameter.view(-1)[place] -= sign * step
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=0.05, abs=0.02)


@pytest.mark.parametrize(("method", "options"), OPTIONS, ids=_IDS)
def test_what_is_saved_is_what_was_trained(backbone: Backbone, method: str, options: dict) -> None:
    trainable = _trainable(backbone, method, options)
    _shake(trainable, method)
    bound = _bound(backbone, trainable, method)
    with torch.no_grad():
        trained = _logits(backbone, bound)
    part = trainable.component()
    assert not any(t.requires_grad for leaves in part.tensors.values() for t in leaves.values())
    adapter = Adapter(components=(part,), head=bound.head, kind="classify", matched_tensors=1)
    adapter.check(backbone)
    served = tiny.ask(backbone, adapter, TEXTS)
    assert tiny.difference(served, list(trained)) < 1e-5


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_training_starts_at_the_backbone(backbone: Backbone, method: str) -> None:
    trainable = _trainable(backbone, method, {})
    bound = replace(_bound(backbone, trainable, method), head=None)
    states = tiny.ask(backbone, bound, TEXTS)
    assert tiny.difference(states, tiny.ask(backbone, None, TEXTS)) < 0.02


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_the_same_seed_gives_the_same_weights(bert: Backbone, method: str) -> None:
    first, again, other = (_trainable(bert, method, {}, seed) for seed in (1, 1, 2))
    states = [torch.cat([t.flatten() for t in one.state_dict().values()]) for one in (first, again, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("pick", ["values", "parameters"])
@pytest.mark.parametrize("relaxation", ["none", "l0"])
def test_sparse_keeps_what_moved_most(backbone: Backbone, pick: str, relaxation: str) -> None:
    options = {"share": 0.1, "pick": pick, "relaxation": relaxation}
    trainable = _trainable(backbone, "sparse", options)
    _shake(trainable, "mask")
    assert (trainable.penalty() is None) == (relaxation == "none")
    trainable.eval()
    every = torch.cat([difference.flatten().abs() for difference in trainable._differences()])
    trainable.advance()
    kept = sum(values.numel() for values in trainable.values.values())
    assert kept <= 0.1 * len(every) + 1
    assert kept >= 0.05 * len(every) or pick == "parameters"
    assert trainable.penalty() is None
    if pick == "values":
        moved = trainable.component()
        assert (
            sum(leaves[n].numel() for leaves in moved.tensors.values() for n in leaves if n.endswith("s")) == 2 * kept
        )
    _shake(trainable, "mask")
    bound = _bound(backbone, trainable, "sparse")
    with torch.no_grad():
        trained = _logits(backbone, bound)
    adapter = Adapter(components=(trainable.component(),), head=bound.head, kind="classify", matched_tensors=1)
    adapter.check(backbone)
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), list(trained)) < 1e-5

    again = _trainable(backbone, "sparse", options)
    again.restore(1, trainable.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trainable.parameters(), strict=True))


@pytest.mark.parametrize("sparsity", [0.05, 0.3, 1.0])
def test_a_fresh_mask_has_the_sparsity_asked_for(bert: Backbone, sparsity: float) -> None:
    part = _trainable(bert, "mask", {"initial_sparsity": sparsity}).component()
    masks = [unpack_bits(part.tensors[s]["mask"], bert.linear[s].shape).float() for s in part.tensors]
    zeros = 1 - float(torch.cat([m.flatten() for m in masks]).mean())
    assert zeros == pytest.approx(sparsity, abs=0.02)


# ---- options


@pytest.mark.parametrize("method", tiny.METHOD_NAMES)
def test_unknown_options_name_the_known_ones(bert: Backbone, method: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{method} has no option 'colour'; it has \w+") as caught:
        _trainable(bert, method, {"colour": "red"})
    assert caught.value.param == "colour"


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"rank": 0}),
        ("lora", {"rank": 2.5}),
        ("lora", {"rank": "many"}),
        ("lora", {"rank": None}),
        ("lora", {"rank": "nan"}),
        ("lora", {"rank": float("nan")}),
        ("lora", {"rank": float("inf")}),
        ("lora", {"alpha": -1}),
        ("lora", {"alpha": float("nan")}),
        ("lora", {"alpha": float("inf")}),
        ("lora", {"targets": "no_such"}),
        ("lora", {"targets": ""}),
        ("lora", {"targets": []}),
        ("lora", {"targets": 3}),
        ("bottleneck", {"placement": "elsewhere"}),
        ("bottleneck", {"placement": ["houlsby"]}),
        ("bottleneck", {"width": -4}),
        ("prefix", {"length": 0}),
        ("prefix", {"reparametrisation": -1}),
        ("mask", {"initial_sparsity": 1.5}),
        ("mask", {"first_layer": -1}),
        ("mask", {"first_layer": 2}),
        ("lora", {"gated": "perhaps"}),
        ("lora", {"variant": "vera", "alpha": 2}),
        ("lora", {"variant": "vera", "rank": 10**7}),
        ("bottleneck", {"kronecker": 3}),
        ("bottleneck", {"kronecker": 4, "width": 6}),
        ("invertible", {"non_linearity": "steps"}),
        ("token_rows", {}),
        ("token_rows", {"tokens": "w1 w2"}),
        ("token_rows", {"tokens": "100000"}),
        ("average", {}),
        ("average", {"members": []}),
    ],
)
def test_values_that_are_not_allowed(bert: Backbone, method: str, options: dict) -> None:
    with pytest.raises(InvalidRequest):
        _trainable(bert, method, options)


def test_options_are_read_from_text() -> None:
    options = Options({"rank": "4", "alpha": "1.5", "targets": "a, b"}, method="lora")
    assert options.integer("rank", 8) == 4
    assert options.number("alpha", 1.0) == 1.5
    assert options.names("targets", []) == ["a", "b"]
    options.reject_unknown()


def test_numbers_and_flags_are_read_from_text() -> None:
    options = Options({"weights": "0.5, 2", "gated": "yes"}, method="average")
    assert options.numbers("weights", [1.0]) == [0.5, 2.0]
    assert options.numbers("others", [1.0]) == [1.0]
    assert options.flag("gated")
    assert not options.flag("other")
    options.reject_unknown()
    with pytest.raises(InvalidRequest, match="weights must be numbers, not 'much'"):
        Options({"weights": "1,much"}, method="average").numbers("weights", [])


# ---- bits


@settings(max_examples=60, deadline=None)
@given(out=st.integers(1, 19), width=st.integers(1, 19), seed=st.integers(0, 999))
def test_bits_round_trip(out: int, width: int, seed: int) -> None:
    keep = torch.rand(out, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack_bits(keep)
    assert packed.dtype == torch.uint8
    assert packed.shape == ((out * width + 7) // 8,)
    assert torch.equal(unpack_bits(packed, (out, width)), keep)
    for place, kept in enumerate(keep.flatten().tolist()):
        assert bool((int(packed[place // 8]) >> (place % 8)) & 1) == kept
    assert int(packed[-1]) >> ((out * width - 1) % 8 + 1) == 0  # the rest of the last byte is zero
