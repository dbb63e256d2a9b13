"""Linear layers with one input: their low-rank pairs are one call where the kernels join them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.backbone.families import FAMILIES
from manyhats.backbone.joined_linear import CalledInTurn
from manyhats.backbone.sites import ActorContext, Actors, LinearSite
from manyhats.kernels.base import JoinedPair
from manyhats.kernels.reference import Reference
from manyhats.kernels.segments import Segments
from manyhats.methods.component import Component
from manyhats.methods.lora import LoraConfig
from manyhats.methods.slots import SlotTables
from torch import Tensor, nn

from tests import every, tiny
from tests.launches.passes import adapters_of


class Joins(Reference):
    """Notes how many sites each call joins, and which rows it is about."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[Any]]] = []
        self.alone = 0

    def low_rank(self, *arguments: Any, **more: Any) -> None:
        self.alone += 1
        super().low_rank(*arguments, **more)

    def joined_low_rank(self, x: Tensor, pairs: Sequence[JoinedPair], segments: Segments) -> None:  # type: ignore[override]
        self.calls.append((len(pairs), list(segments)))
        for pair in pairs:
            super().low_rank(x, pair.y, pair.table, pair.segments)
            assert set(pair.segments) <= set(segments)


def with_kernels(folder: Path, kernels: Any) -> Backbone:
    backbone = tiny.load(folder)
    backbone.kept[SlotTables] = SlotTables(kernels)
    return backbone


TEXTS = tiny.texts([3, 1, 9, 6])


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.same_input] + ["bert"])
def test_sites_with_one_input_are_one_call(family: str, base_folder: Callable[[str], Path]) -> None:
    kernels = Joins()
    backbone = with_kernels(base_folder(family), kernels)
    adapter = every.adapters(backbone)["lora"]
    answers = tiny.ask(backbone, adapter, TEXTS)
    assert tiny.difference(answers, tiny.ask(with_kernels(base_folder(family), Reference()), adapter, TEXTS)) < 1e-5
    groups = [names for names in backbone.shared if adapter_acts_on(adapter, backbone, names)]
    assert groups
    times = backbone.layers // (len(groups) if family == "albert" else backbone.layers)
    assert len(kernels.calls) == len(groups) * times
    assert {count for count, _ in kernels.calls} == {len(names) for names in groups}


def adapter_acts_on(adapter: Any, backbone: Backbone, names: Sequence[str]) -> bool:
    bound = adapter.bind(backbone)
    sites = {one.site for one in bound.signature.placements}
    return all(name in sites for name in names)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_method_answers_as_without_joining(family: str, base_folder: Callable[[str], Path]) -> None:
    answers = []
    for kernels in (Reference(), Joins()):
        backbone = with_kernels(base_folder(family), kernels)
        bound = [tiny.bound(backbone, adapter) for adapter in adapters_of(backbone).values()]
        texts = tiny.texts([1 + i * 7 % 23 for i in range(2 * len(bound))])
        answers.append(tiny.run(backbone, [tiny.row(backbone, bound[i % len(bound)], t) for i, t in enumerate(texts)]))
    assert tiny.difference(*answers) < 1e-5


def test_tasks_with_other_targets_share_a_call(base_folder: Callable[[str], Path]) -> None:
    """One acts on query and value, one on all three: the call is about both, and each site gets its own."""
    kernels = Joins()
    backbone, plain = (with_kernels(base_folder("bert"), own) for own in (kernels, Reference()))
    answers = []
    for one in (backbone, plain):
        full, other = (tiny.adapter(one, "lora", seed, only="attention.self") for seed in (1, 2))
        (part,) = other.components
        some = {name: leaves for name, leaves in part.tensors.items() if not name.endswith("key")}
        config = LoraConfig(scales={name: part.config.scales[name] for name in some})
        fewer = replace(other, components=(Component("lora", config, some),))
        bound = [adapter.bind(one) for adapter in (fewer, full)]
        answers.append(tiny.run(one, [tiny.row(one, bound[i % 2], text) for i, text in enumerate(TEXTS)]))
    assert tiny.difference(*answers) < 1e-5
    assert [(count, len(segments)) for count, segments in kernels.calls] == [(3, 2)] * backbone.layers
    assert kernels.alone == 0


class Doubles:
    """An actor that doubles outputs, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, ys: Sequence[Tensor]) -> None:
        self.calls += 1
        for y in ys:
            y *= 2


@torch.inference_mode()
def test_outputs_are_kept_for_the_very_input_alone() -> None:
    context, actor = ActorContext(), Doubles()
    layers = [nn.Linear(3, 2), nn.Linear(3, 4)]
    plain = [nn.Linear.forward.__get__(layer) for layer in layers]
    turn = CalledInTurn([LinearSite(name, layer, context) for name, layer in zip("ab", layers, strict=True)])
    context.actors = Actors(joined={("a", "b"): actor})
    x = torch.randn(1, 5, 3)
    for layer, own in zip(layers, plain, strict=True):
        assert torch.equal(layer(x), 2 * own(x))
    assert actor.calls == 1
    assert turn._input is None  # nothing is held
    layers[0](x)
    assert torch.equal(layers[1](x.clone()), 2 * plain[1](x))  # equal, but another tensor
    assert torch.equal(layers[0](x), 2 * plain[0](x))
    assert actor.calls == 4
    turn.begin()
    assert turn._input is None
    context.actors = Actors()
    assert torch.equal(layers[0](x), plain[0](x))
    assert actor.calls == 4


def test_with_gradients_each_site_computes_its_own() -> None:
    context, actor = ActorContext(), Doubles()
    layers = [nn.Linear(3, 2), nn.Linear(3, 4)]
    CalledInTurn([LinearSite(name, layer, context) for name, layer in zip("ab", layers, strict=True)])
    context.actors = Actors(joined={("a", "b"): actor})
    layers[0](torch.randn(2, 3))
    assert not actor.calls
