"""What the blocks take from the engine, in one place: backbones with random weights, adapters, passes and steps."""

from __future__ import annotations

import gc
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from manyhats.backbone import Backbone, Tokenizer
from manyhats.backbone.attention import PACKED_ATTENTION, register
from manyhats.backbone.vocabulary import VocabularyHead, causal_head
from manyhats.core.adapter import Adapter
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.engine.fused_norms import use_fused_norms
from manyhats.engine.warm_up import warm_up
from manyhats.kernels.registry import choose
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.ia3 import Ia3Config
from manyhats.methods.lora import LoraConfig
from manyhats.methods.mask import MaskConfig
from manyhats.methods.plan import in_batch_order
from manyhats.methods.prefix import PrefixConfig, layer_site
from manyhats.methods.slots import SlotTables, slot_tables, use_kernels
from manyhats.methods.targets import target_sites
from sample_adapters import twelve_methods
from stepping import Generation
from torch import Tensor
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from device.child import Run, report
from tests import tiny

MIXTURE = ("lora", "mask", "ia3", "bottleneck", "prefix")

# ---- kernels


def backends() -> tuple[str, ...]:
    """The device's own kernels, and the reference, so that it shows whose a fault is."""
    own = "cuda" if Run.device == "cuda" else choose(torch.device(Run.device)).name
    return tuple(dict.fromkeys((own, "reference")))


def use(backbone: Backbone, name: str) -> None:
    """Sets the kernels of a backbone without adapters; those for CUDA also where their check has found a fault."""
    if name == "cuda":
        from manyhats.kernels.cuda.backend import CudaKernels

        backbone.kept[SlotTables] = SlotTables(CudaKernels())
    else:
        use_kernels(backbone, name)
    use_fused_norms(backbone)


# ---- backbones


def bert_config() -> BertConfig:
    """BERT-base's shape."""
    if Run.small:
        return BertConfig(
            vocab_size=500, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
        )
    return BertConfig()


def llama_config(size: str) -> LlamaConfig:
    """The shape of Llama-1B or Llama-8B."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "intermediate_size")  # fmt: skip
    shape = (128256, 2048, 16, 32, 8, 8192) if size == "1B" else (128256, 4096, 32, 32, 8, 14336)
    if Run.small:
        shape = (500, 64, 2, 4, 2, 128) if size == "1B" else (500, 96, 2, 6, 2, 160)
    return LlamaConfig(
        **dict(zip(names, shape, strict=True)), max_position_embeddings=4096, tie_word_embeddings=size == "1B",
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def made(kind: type, config: Any, dtype: torch.dtype, device: str | None = None) -> Any:
    """A model with random weights, made on the device in its own precision."""
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device or Run.device):
            return kind(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def backbone_of(
    model: PreTrainedModel,
    family: str,
    dtype: torch.dtype,
    vocabulary: VocabularyHead | None = None,
    device: str | None = None,
    kernels: str | None = None,
) -> Backbone:
    """`Backbone(...)` and not `Backbone.load`, which hashes all weights on the host and copies them for a trial."""
    folder = Path(tempfile.mkdtemp())
    tiny.tokenizer(family).save_pretrained(folder)
    register()
    model.set_attn_implementation(PACKED_ATTENTION)
    place = torch.device(device or Run.device)
    backbone = Backbone(model, Tokenizer(str(folder)), name="random", vocabulary=vocabulary, device=place, dtype=dtype)
    use(backbone, kernels or Run.kernels)
    return backbone


def llama(dtype: torch.dtype, size: str = "1B") -> Backbone:
    """A decoder with its language-model head."""
    model = made(LlamaForCausalLM, llama_config(size), dtype)
    backbone = backbone_of(model.base_model, "llama", dtype, causal_head(model))
    begin = time.time()
    warm_up(backbone)  # as the server does at its start
    report(f"{size}: seconds to compile the kernels", round(time.time() - begin, 1))
    return backbone


def weight_bytes(backbone: Backbone) -> int:
    """What a step must read of the backbone at least: the weight of each linear layer once."""
    return sum(site.weight.nbytes for site in backbone.linear.values())


def flops(backbone: Backbone, tokens: int, adapters: Sequence[BoundAdapter] = ()) -> float:
    """Of the layers for so many tokens, and of adapters that share these, which are low-rank pairs."""
    own = sum(site.shape[0] * site.shape[1] for site in backbone.linear.values())
    pairs = sum(adapter.nbytes for adapter in adapters) / max(len(adapters), 1) / backbone.dtype.itemsize
    return 2.0 * tokens * (own + pairs)


# ---- adapters


def _blocks_linear(backbone: Backbone) -> dict[str, tuple[int, int]]:
    """The linear layers inside the blocks, with their shapes (out, in)."""
    return {site: backbone.linear[site].shape for site in target_sites(backbone, ["all-linear"])}


@cache
def _numbers(by: float, dtype: torch.dtype) -> Tensor:
    """Random numbers, in host memory."""
    return (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * by).to(dtype)


@cache
def _bytes() -> Tensor:
    """Random bytes, in host memory."""
    return torch.randint(0, 256, (1 << 24,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def part_of(backbone: Backbone, method: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Component[Any]:
    """Weights of a usual size in host memory: views of the same random numbers, which are quickly there."""
    pick = random.Random(seed)

    def some(numbers: Tensor, count: int) -> Tensor:
        begin = pick.randrange((len(numbers) - count) // 64) * 64
        return numbers[begin : begin + count]

    def fresh(*shape: int, by: float = 0.05) -> Tensor:
        return some(_numbers(by, dtype), math.prod(shape)).view(shape)

    linear, hidden = _blocks_linear(backbone), backbone.hidden
    match method:
        case "lora":
            tensors = {site: {"A": fresh(8, w), "B": fresh(o, 8)} for site, (o, w) in linear.items()}
            return Component("lora", LoraConfig(scales=dict.fromkeys(linear, 2.0)), tensors)
        case "bottleneck":
            shapes = {"down.weight": (24, hidden), "down.bias": (24,), "up.weight": (hidden, 24), "up.bias": (hidden,)}
            tensors = {site: {n: fresh(*s, by=0.02) for n, s in shapes.items()} for site in backbone.residual}
            return Component("bottleneck", BottleneckConfig(), tensors)
        case "ia3":
            return Component(
                "ia3", Ia3Config(), {site: {"output": 1 + fresh(o, by=0.1)} for site, (o, _) in linear.items()}
            )
        case "prefix":
            rows = {
                layer_site(i): {n: fresh(16, *backbone.kv_shape, by=0.2) for n in ("keys", "values")}
                for i in range(backbone.layers)
            }
            return Component("prefix", PrefixConfig(length=16), rows)
        case "mask":
            bits = {site: {"mask": some(_bytes(), (o * w + 7) // 8)} for site, (o, w) in linear.items()}
            return Component("mask", MaskConfig(shapes=linear), bits)
    raise ValueError(method)


def read(*parts: Component[Any]) -> Adapter:
    """An adapter in host memory, without a head."""
    return Adapter(components=parts, head=None, kind="embed", matched_tensors=1)


def bind(backbone: Backbone, *parts: Component[Any]) -> BoundAdapter:
    """An adapter in a slot."""
    return read(*parts).bind(backbone)


def tasks_of(backbone: Backbone, method: str, count: int) -> list[BoundAdapter]:
    """So many tasks of one method, of five (`mixture`), or of twelve (`twelve`, encoders alone); `bare` is none."""
    if method == "bare":
        return [BARE]
    if method == "twelve":
        methods = list(twelve_methods(backbone, 0).values())
        return [bind(backbone, *methods[i % len(methods)]) for i in range(count)]
    names = [MIXTURE[i % len(MIXTURE)] if method == "mixture" else method for i in range(count)]
    return [bind(backbone, part_of(backbone, name, i, backbone.dtype)) for i, name in enumerate(names)]


def fits(backbone: Backbone, masks: int) -> bool:
    """Whether the device's memory suffices for so many masks, as bits or as dense weights."""
    if Run.device != "cuda":
        return True
    weights = [backbone.linear[site].weight for site in _blocks_linear(backbone)]
    as_bits = slot_tables(backbone).kernels.keeps_bits
    one = sum(weight.numel() // 8 if as_bits else weight.nbytes for weight in weights)
    return masks * one * 1.2 + (4 << 30) < torch.cuda.mem_get_info()[0]


# ---- passes


def sentences(count: int, vocabulary: int) -> list[list[int]]:
    """Random tokens; 64 sentences have 1,619 of them, 6 to 61 each; 256 have 6,316."""
    pick = random.Random(0)
    lengths = [min(97, max(6, int(pick.gauss(25, 14)))) for _ in range(count)]
    return [[2 + pick.randrange(vocabulary - 2) for _ in range(length)] for length in lengths]


def rows_of(adapters: Sequence[BoundAdapter], ids: Sequence[list[int]], pooling: str = "mean") -> list[ForwardInput]:
    """In batch order; sentence i belongs to adapter i modulo their number."""
    rows = [ForwardInput(one, [0] * len(one), adapters[i % len(adapters)], pooling) for i, one in enumerate(ids)]
    return in_batch_order(rows, lambda row: row.adapter)


def encoder_pass(backbone: Backbone, rows: Sequence[ForwardInput]) -> Callable[[], list[Tensor]]:
    """One packed pass, the answers left on the device."""
    return lambda: forward(backbone, rows)


# ---- steps


def generation(
    backbone: Backbone, adapters: Sequence[BoundAdapter], texts: int, new: int, *, sampled: bool = False
) -> Generation:
    """Texts under way; text i belongs to adapter i modulo their number. Prompts of 16 to 96 tokens."""
    each = 96 + new + 32  # positions, with what a block has too many
    cache_bytes = texts * each * position_bytes(backbone) * 9 // 8
    made = Generation(backbone, cache_bytes=cache_bytes, tokens=8192, streams=max(64, texts))
    pick = random.Random(0)
    for i in range(texts):
        prompt = [5 + pick.randrange(90) for _ in range(16 + (80 * i) // max(texts - 1, 1))]
        given = {"temperature": 0.8, "top_p": 0.9, "seed": i} if sampled else {}
        made.add(f"task {i % len(adapters)}", adapters[i % len(adapters)], prompt, new, **given)
    return made


def position_bytes(backbone: Backbone) -> int:
    """Keys and values of one position."""
    heads, dim = backbone.kv_shape
    return 2 * backbone.layers * heads * dim * backbone.dtype.itemsize


def without_graphs(one: Generation) -> None:
    """From now on each step launches all by itself."""
    one.runner.graphs = None


def free() -> None:
    """Gives back the device's memory that nothing needs; sites and their modules are circles."""
    gc.collect()
    if Run.device == "cuda":
        torch.cuda.empty_cache()


def cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
