"""Sparse differences, whole parameters and stacks of parts in our own files: against a plain dense computation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.formats.reader import read_adapter
from manyhats.formats.writer import write_adapter
from manyhats.kernels.reference import unpack_bits
from manyhats.methods.operations import OwnMask
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel

from tests import tiny

TEXTS = tiny.texts([3, 17, 40], seed=2)


def wrote(folder: Path, tensors: dict[str, Tensor], **description: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manyhats.json").write_text(json.dumps(description))
    save_file(tensors, folder / "weights.safetensors")
    return folder


@torch.inference_mode()
def dense(base: Path, backbone: Backbone, change: Callable[[dict[str, Tensor]], None]) -> list[Tensor]:
    """The model itself with changed weights, every text alone."""
    model = AutoModel.from_pretrained(base).eval()
    weights = model.state_dict()
    change(weights)
    model.load_state_dict(weights)
    out = []
    for text in TEXTS:
        ids = torch.tensor([tiny.row(backbone, tiny.BARE, text).ids])
        out.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0])
    return out


def parameters(family: str) -> list[str]:
    match family:
        case "gpt2":
            return ["h.0.attn.c_attn.weight", "h.1.mlp.c_fc.bias", "h.1.ln_1.weight", "wte.weight", "ln_f.bias"]
        case "llama":
            return ["layers.0.self_attn.q_proj.weight", "layers.1.input_layernorm.weight", "embed_tokens.weight"]
        case "bert":
            layer = "encoder.layer.1"
            return [
                f"{layer}.attention.self.value.weight",
                f"{layer}.output.dense.bias",
                f"{layer}.output.LayerNorm.weight",
                "embeddings.word_embeddings.weight",
                "embeddings.position_embeddings.weight",
            ]
    raise ValueError(family)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_sparse_equals_dense(family: str, mode: str, tmp_path: Path, base_folder: Any, load_backbone: Any) -> None:
    backbone: Backbone = load_backbone(family)
    base = base_folder(family)
    generator = torch.Generator().manual_seed(3)
    shapes = {name: t.shape for name, t in AutoModel.from_pretrained(base).state_dict().items()}
    changes: dict[str, tuple[Tensor, Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    for name in parameters(family):
        shape = shapes[name]
        site = name.rpartition(".")[0]
        turned = site in backbone.linear and backbone.linear[site].transposed and len(shape) == 2
        count = shape.numel()
        indices = torch.randperm(count, generator=generator)[: max(count // 10, 3)].sort().values
        values = torch.randn(len(indices), generator=generator)
        tensors |= {f"{name}.indices": indices.to(torch.int32), f"{name}.values": values}
        if turned:  # ours counts (out, in), GPT-2's own weight is (in, out)
            out, width = shape[1], shape[0]
            indices = (indices % width) * out + indices // width
        changes[name] = indices, values

    def change(weights: dict[str, Tensor]) -> None:
        for name, (indices, values) in changes.items():
            flat = weights[name].view(-1)
            flat[indices] = values if mode == "replace" else flat[indices] + values

    adapter = read_adapter(wrote(tmp_path / "a", tensors, format="manyhats-sparse/1", mode=mode), backbone)
    assert adapter.method == "sparse"
    expected = dense(base, backbone, change)
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < tiny.CLOSE
    assert adapter.bind(backbone).nbytes <= adapter.slot_size(backbone)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_whole_parameters_equal_dense(family: str, tmp_path: Path, base_folder: Any, load_backbone: Any) -> None:
    """BitFit, LN-tuning and partial layers: `replace_dense`."""
    backbone: Backbone = load_backbone(family)
    base = base_folder(family)
    own = AutoModel.from_pretrained(base).state_dict()
    generator = torch.Generator().manual_seed(5)
    fresh = {name: own[name] + 0.2 * torch.randn(own[name].shape, generator=generator) for name in parameters(family)}
    tensors = {}
    for name, tensor in fresh.items():
        site = name.rpartition(".")[0]
        turned = site in backbone.linear and backbone.linear[site].transposed and tensor.dim() == 2
        tensors[name] = tensor.T.contiguous() if turned else tensor
    adapter = read_adapter(wrote(tmp_path / "a", tensors, format="manyhats-sparse/1", mode="replace_dense"), backbone)
    expected = dense(base, backbone, lambda weights: weights.update(fresh))
    assert tiny.difference(tiny.ask(backbone, adapter, TEXTS), expected) < tiny.CLOSE


def test_a_stack_of_parts_is_read_back(tmp_path: Path, bert: Backbone) -> None:
    """MAM (prefix and parallel adapter), LoRA and prefix: one adapter of several parts."""
    parts = (
        tiny.component(bert, "prefix", 1),
        tiny.component(bert, "bottleneck", 2, is_parallel=True, scaling=4.0),
        tiny.component(bert, "lora", 3),
    )
    adapter = replace(tiny.adapter(bert, "lora", 9, kind="tokens", labels=4), components=parts)
    write_adapter(adapter, tmp_path, bert)
    again = read_adapter(tmp_path, bert)
    assert again.method == "prefix+bottleneck+lora"
    assert tiny.difference(tiny.ask(bert, again, TEXTS), tiny.ask(bert, adapter, TEXTS)) == 0


def test_zeros_by_their_places(tmp_path: Path, bert: Backbone) -> None:
    """A mask with few zeros as their indices is the mask in bits."""
    site = "encoder.layer.0.output.dense"
    weight = bert.linear[site].weight
    zeros = torch.tensor([0, 5, 77, weight.numel() - 1], dtype=torch.int32)
    shape = list(weight.shape)
    folder = wrote(
        tmp_path / "a",
        {f"{site}.zeros_indices": zeros},
        format="manyhats-mask/1",
        shapes={site: shape},
        encoding="zeros_idx32",
    )
    (own,) = read_adapter(folder, bert).bind(bert).components[0][1].linear[site]
    wanted = weight.clone().view(-1)
    wanted[zeros.long()] = 0
    masked = weight * unpack_bits(own.bits.bits, weight.shape) if isinstance(own, OwnMask) else own.layer.weight
    assert torch.equal(masked, wanted.view(weight.shape))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"w.weight.indices": torch.tensor([1, 1])}, AdapterMismatch, "no linear layer, embedding or norm"),
        ({"encoder.layer.0.output.dense.bias.indices": torch.tensor([4, 2])}, AdapterMismatch, "do not rise"),
        ({"encoder.layer.0.output.dense.bias.indices": torch.tensor([0, 32])}, AdapterMismatch, "has 32 values"),
        ({"encoder.layer.0.output.dense.bias.indices": torch.tensor([0.0, 1.0])}, AdapterMismatch, "whole numbers"),
        ({"encoder.layer.0.output.dense.bias.other": torch.tensor([0.0])}, InvalidRequest, "not understood"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, bert: Backbone, change: dict, error: Any, told: str) -> None:
    name = "encoder.layer.0.output.dense.bias"
    tensors = {f"{name}.indices": torch.tensor([0, 1]), f"{name}.values": torch.ones(2)} | change
    with pytest.raises(error, match=told):
        read_adapter(wrote(tmp_path / "a", tensors, format="manyhats-sparse/1", mode="add"), bert)
