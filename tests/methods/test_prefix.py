"""Prefixes that some layers have not (AdapterHub's `leave_out`); `tests/parity` has the library's own outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.errors import AdapterMismatch
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.prefix import PrefixConfig, layer_site

from tests import engines, tiny

TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17", "w18"]


def prefix(backbone: Backbone, seed: int, left_out: list[int], length: int = 5, *, gated: bool = False) -> Adapter:
    whole = tiny.component(backbone, "prefix", seed, std=1.0, length=length)
    tensors = {site: dict(leaves) for site, leaves in whole.tensors.items()}
    if gated:
        for i, leaves in enumerate(tensors.values()):
            weight = torch.randn(1, backbone.hidden, generator=torch.Generator().manual_seed(i))
            leaves |= {"gate.weight": weight, "gate.bias": torch.zeros(1)}
    for layer in left_out:
        del tensors[layer_site(layer)]
    config = PrefixConfig(length=length, shift_positions=False, left_out=left_out)
    adapter = Adapter(components=(Component("prefix", config, tensors),), head=None, kind="embed", matched_tensors=1)
    adapter.check(backbone)
    return adapter


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "llama", "mistral", "opt"])
def test_texts_of_many_prefixes_are_as_alone(
    family: str, gated: bool, load_backbone: Callable[[str], Backbone]
) -> None:
    backbone = load_backbone(family)
    lengths = [([], 5), ([0], 5), ([1], 5), ([0], 2)]
    bound = [prefix(backbone, 3, out, length, gated=gated).bind(backbone) for out, length in lengths]
    rows = [tiny.row(backbone, one, text) for text in TEXTS for one in [*bound, BARE]]
    together = tiny.run(backbone, rows)
    alone = [tiny.run(backbone, [row])[0] for row in rows]
    assert tiny.difference(together, alone) < tiny.CLOSE
    several = [together[i : i + 5] for i in range(0, len(together), 5)]
    for whole, first, last, _, bare in several:
        assert min(float((a - b).abs().max()) for a, b in [(whole, first), (whole, last), (first, last)]) > 1e-3
        assert min(float((bare - other).abs().max()) for other in (whole, first, last)) > 1e-3


def test_a_layer_that_is_left_out_is_the_backbone_s(load_backbone: Callable[[str], Backbone]) -> None:
    """With a prefix at the last layer alone, what the first one gives is the backbone's own."""
    backbone = load_backbone("bert")
    seen: list[torch.Tensor] = []
    block = backbone.model.get_submodule(backbone.family.block_name(backbone.config, 0))
    handle = block.register_forward_hook(lambda *given: seen.append(torch.as_tensor(given[2][0]).clone()))
    try:
        tiny.ask(backbone, None, TEXTS[:1])
        tiny.ask(backbone, prefix(backbone, 3, [0]), TEXTS[:1])
        tiny.ask(backbone, prefix(backbone, 3, [1]), TEXTS[:1])
    finally:
        handle.remove()
    bare, left_out, there = seen
    assert torch.allclose(bare, left_out, atol=1e-6)
    assert not torch.allclose(bare, there, atol=1e-3)


def greedy(backbone: Backbone, adapters: list[BoundAdapter], prompts: list[list[int]], new: int) -> list[list[int]]:
    """Step by step over kept keys and values."""
    requests = [
        engines.generation(backbone, str(id(adapter)), adapter, prompt, new=new)
        for adapter, prompt in zip(adapters, prompts, strict=True)
    ]
    engines.run(engines.engine(backbone, tokens=7, seqs=8), requests)
    return [engines.tokens(request) for request in requests]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_texts_go_on_as_a_whole_pass_has_it(family: str, load_backbone: Callable[[str], Backbone]) -> None:
    backbone = load_backbone(family)
    bound = [prefix(backbone, 3, out).bind(backbone) for out in ([], [0], [1])] + [BARE]
    prompts = [list(tiny.row(backbone, BARE, text).ids) for text in TEXTS[:2]]
    adapters = [one for _ in prompts for one in bound]
    repeated = [prompt for prompt in prompts for _ in bound]
    generated = greedy(backbone, adapters, repeated, 6)
    for adapter, prompt, tokens in zip(adapters, repeated, generated, strict=True):
        ids = list(prompt)
        for token in tokens:
            row = tiny.row(backbone, adapter, "w1")
            (logits,) = tiny.run(backbone, [type(row)(ids, [0] * len(ids), adapter, next_token=True)])
            best = logits.topk(2).values
            assert int(logits.argmax()) == token or float(best[0] - best[1]) < 1e-3
            ids.append(token)
    assert len({tuple(tokens) for tokens in generated[:4]}) > 1


@pytest.mark.parametrize(
    ("left_out", "kept", "named"),
    [([7], [0, 1], "left_out|leaves out"), ([0], [0, 1], "layers"), ([0, 1], [], "any layer")],
)
def test_layers_that_do_not_fit(bert: Backbone, left_out: list[int], kept: list[int], named: str) -> None:
    whole = tiny.component(bert, "prefix", 3)
    tensors = {layer_site(layer): whole.tensors[layer_site(layer)] for layer in kept}
    part = Component("prefix", PrefixConfig(length=5, left_out=left_out), tensors)
    with pytest.raises(AdapterMismatch, match=named):
        Adapter(components=(part,), head=None, kind="embed", matched_tensors=1).check(bert)


def test_several_prefixes_must_be_for_all_layers(bert: Backbone) -> None:
    parts = (*prefix(bert, 3, [0]).components, *prefix(bert, 4, []).components)
    with pytest.raises(AdapterMismatch, match="all layers"):
        Adapter(components=parts, head=None, kind="embed", matched_tensors=1).check(bert)


def test_it_is_written_with_its_layers_and_positions(bert: Backbone, tmp_path: Path) -> None:
    """PEFT's files have no place for either."""
    for i, left_out in enumerate(([], [0])):
        folder = tmp_path / str(i)
        folder.mkdir()
        adapter = prefix(bert, 3, left_out)
        write_adapter(adapter, folder, bert)
        again = read_adapter(folder, bert)
        assert again.components[0].config == adapter.components[0].config
        outputs: Any = [tiny.ask(bert, one, TEXTS) for one in (adapter, again)]
        assert tiny.difference(*outputs) < 1e-6
