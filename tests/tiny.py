"""Tiny random backbones and adapters, and short ways to ask them something.

The models have two layers of 32 units and weights large enough for mistakes to show. Their tokenizer splits at
spaces and knows `w0` ... `w99`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from manyhats.backbone import Backbone, Text
from manyhats.core.adapter import Adapter
from manyhats.core.kinds.registry import HEADLESS
from manyhats.engine.forward import forward
from manyhats.engine.forward_input import ForwardInput
from manyhats.kernels.base import LowRank
from manyhats.methods.bottleneck import BottleneckConfig
from manyhats.methods.bound_adapter import BARE, BoundAdapter
from manyhats.methods.component import Component
from manyhats.methods.heads import Head, KindName, Layer
from manyhats.methods.lora import LoraConfig
from manyhats.methods.mask import MaskConfig, pack_bits
from manyhats.methods.operations import AddLowRank
from manyhats.methods.plan import in_batch_order
from manyhats.methods.prefix import PrefixConfig, layer_site
from tokenizers import Tokenizer as RawTokenizer
from torch import Tensor

from tests import families
from tests.tiny_models import (
    MAX_TOKENS,
    VOCABULARY,
    WORDS,
    byte_tokenizer,
    config,
    randomise,
    texts,
    tokenizer,
    words,
    write_base,
    write_byte_base,
)

# By the names that tests use.
FAMILIES = families.ENCODERS
SHARED_OR_LOCAL = families.SHARED_OR_LOCAL
DECODERS = families.DECODERS
PADDED = families.PADDED
ALL_FAMILIES = families.ALL

# What tests call by the name of this module, beside its own.
__all__ = [
    "ALL_FAMILIES",
    "DECODERS",
    "FAMILIES",
    "MAX_TOKENS",
    "PADDED",
    "SHARED_OR_LOCAL",
    "VOCABULARY",
    "WORDS",
    "byte_tokenizer",
    "config",
    "randomise",
    "texts",
    "tokenizer",
    "words",
    "write_base",
    "write_byte_base",
]

# The largest difference that counts as equal, in float32.
CLOSE = 1e-4


def load(folder: Path) -> Backbone:
    """In float32 on the CPU, with the tokenizer that lies in the folder (for Qwen2 transformers makes another)."""
    backbone = Backbone.load(str(folder), device="cpu", dtype="float32")
    if backbone.config.model_type == "qwen2":
        backbone.tokenizer._backend = RawTokenizer.from_file(str(folder / "tokenizer.json"))
    return backbone


# ---- asking

Worn = Adapter | BoundAdapter | None


def bound(backbone: Backbone, adapter: Worn) -> BoundAdapter:
    """The adapter ready to act; None is the bare backbone."""
    if adapter is None:
        return BARE
    return adapter.bind(backbone) if isinstance(adapter, Adapter) else adapter


def row(backbone: Backbone, adapter: BoundAdapter, text: str | Text, pooling: str = "none") -> ForwardInput:
    """One sequence for a batch."""
    given_text = Text(text) if isinstance(text, str) else text
    (encoded,) = backbone.tokenizer.encode([given_text], backbone.max_tokens - adapter.position_offset)
    return ForwardInput(encoded.ids, encoded.type_ids, adapter, pooling)


@torch.inference_mode()
def run(backbone: Backbone, rows: Sequence[ForwardInput]) -> list[Tensor]:
    """One packed pass over rows in any order; the outputs stand in the rows' order."""
    order = in_batch_order(range(len(rows)), lambda i: rows[i].adapter)
    outputs: list[Tensor | None] = [None] * len(rows)
    for i, output in zip(order, forward(backbone, [rows[i] for i in order]), strict=True):
        outputs[i] = output
    return [output for output in outputs if output is not None]


def ask(backbone: Backbone, adapter: Worn, texts: Sequence[str | Text], pooling: str = "none") -> list[Tensor]:
    """The adapter's outputs for `texts`, in one packed batch."""
    on_device = bound(backbone, adapter)
    return run(backbone, [row(backbone, on_device, text, pooling) for text in texts])


def alone(backbone: Backbone, adapter: Worn, texts: Sequence[str | Text], pooling: str = "none") -> list[Tensor]:
    """The same, every text in a pass of its own."""
    on_device = bound(backbone, adapter)
    return [run(backbone, [row(backbone, on_device, text, pooling)])[0] for text in texts]


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference between two lists of outputs. Their shapes must be equal."""
    assert len(one) == len(other)
    assert [tuple(a.shape) for a in one] == [tuple(b.shape) for b in other]
    assert all(bool(torch.isfinite(a).all()) for a in [*one, *other])
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(one, other, strict=True))


# ---- adapters


def spoil(adapter: BoundAdapter, change: Callable[[LowRank], Any]) -> None:
    """Changes the low-rank pairs of a LoRA in its slot, in place."""
    with torch.inference_mode():
        for _, component in adapter.components:
            for operations in component.linear.values():
                for operation in operations:
                    if isinstance(operation, AddLowRank):
                        change(operation.pair)


def _random(generator: torch.Generator, *shape: int, std: float = 0.2) -> Tensor:
    return torch.randn(shape, generator=generator) * std


def head(backbone: Backbone, kind: KindName, labels: int, seed: int) -> Head:
    """A random head built as the backbone's family builds it."""
    generator = torch.Generator().manual_seed(seed)
    layout = backbone.task_heads.classification
    hidden, width = backbone.hidden, backbone.output_width
    if kind == "tokens" or layout is None:
        reads = "tokens" if kind == "tokens" else "first"
        return Head(kind, reads, (Layer(_random(generator, labels, width), _random(generator, labels)),))
    inner = []
    for _ in layout.linears[1:]:
        inner.append(Layer(_random(generator, hidden, width), _random(generator, hidden), layout.activation))
        width = hidden
    return Head(kind, layout.reads, (*inner, Layer(_random(generator, labels, width), _random(generator, labels))))


def component(backbone: Backbone, method: str, seed: int, std: float = 0.2, **options: Any) -> Component:
    """Random weights of one method, at every site where it can act."""
    generator = torch.Generator().manual_seed(seed)
    hidden = backbone.hidden

    def fresh(*shape: int) -> Tensor:
        return _random(generator, *shape, std=std)

    match method:
        case "lora":
            rank = options.get("rank", 3)
            sites = {n: s.shape for n, s in backbone.linear.items() if options.get("only", "") in n}
            return Component(
                method,
                LoraConfig(scales={n: 0.5 + i / 10 for i, n in enumerate(sites)}),
                {n: {"A": fresh(rank, width), "B": fresh(out, rank)} for n, (out, width) in sites.items()},
            )
        case "bottleneck":
            shapes: dict[str, tuple[int, ...]] = {"up.bias": (hidden,)}
            for flag, name in (("ln_before", "norm_before"), ("ln_after", "norm_after")):
                if options.get(flag):
                    shapes |= {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}
            width = options.pop("width", 4)
            shapes |= {"down.weight": (width, hidden), "down.bias": (width,), "up.weight": (hidden, width)}
            return Component(
                method,
                BottleneckConfig(**options),
                {site: {name: fresh(*shape) for name, shape in shapes.items()} for site in backbone.residual},
            )
        case "prefix":
            length = options.pop("length", 5)
            shape = (length, *backbone.kv_shape)
            return Component(
                method,
                PrefixConfig(length=length, **options),
                {layer_site(i): {"keys": fresh(*shape), "values": fresh(*shape)} for i in range(backbone.layers)},
            )
        case "mask":
            kept = options.get("kept", 0.8)
            shapes = {n: s.shape for n, s in backbone.linear.items() if options.get("only", "") in n}
            return Component(
                method,
                MaskConfig(shapes=shapes),
                {n: {"mask": pack_bits(torch.rand(s, generator=generator) < kept)} for n, s in shapes.items()},
            )
    raise ValueError(method)


def adapter(
    backbone: Backbone,
    method: str,
    seed: int,
    *,
    kind: KindName = "embed",
    labels: int = 3,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Adapter:
    """A random adapter that fits the backbone."""
    made = component(backbone, method, seed, **options)
    top = None if kind in HEADLESS else head(backbone, kind, labels, seed + 1)
    tensors = sum(len(leaves) for leaves in made.tensors.values())
    result = Adapter(components=(made,), head=top, kind=kind, matched_tensors=tensors, settings=settings or {})
    result.check(backbone)
    return result


# Those with a file format of one part, and a training recipe.
def uneven_lora(backbone: Backbone) -> Adapter:
    """A LoRA whose layers differ in rank and scale."""
    first, second = (component(backbone, "lora", i + 1, only=f"layer.{i}", rank=rank) for i, rank in enumerate((2, 5)))
    config = type(first.config)(scales=first.config.scales | second.config.scales)
    merged = Component("lora", config, dict(first.tensors) | dict(second.tensors))
    return Adapter(components=(merged,), head=head(backbone, "classify", 3, 4), kind="classify", matched_tensors=1)


METHOD_NAMES = ("lora", "bottleneck", "prefix", "mask")
