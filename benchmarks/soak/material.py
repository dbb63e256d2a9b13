"""The adapters of a soak: of all methods, each with random weights of its own, written as they are uploaded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from manyhats.backbone import Backbone
from manyhats.core.adapter import Adapter
from manyhats.formats.writer import write_adapter
from manyhats.methods.component import Component
from manyhats.methods.heads import KindName
from transformers import AutoModelForCausalLM

from tests import every, tiny
from tests.tiny_models import byte_tokenizer, config, randomise

# Of a cycle of tasks, so that every method comes in every kind after a while: 7 shares no factor with their number.
ENCODER_KINDS: tuple[KindName, ...] = ("classify", "classify", "embed", "classify", "tokens", "regress", "classify")
STD = 0.05  # of random weights: enough for other answers, too little to blow rounding up
LABELS = 3
POSITIONS = 512


@dataclass(frozen=True, slots=True)
class Piece:
    """One adapter's files. `method`: as `tests/every.py` calls it."""

    name: str
    method: str
    kind: str
    folder: Path

    def parts(self) -> list[tuple[str, bytes]]:
        """Names and bytes of its files, as an upload sends them."""
        return [(path.name, path.read_bytes()) for path in sorted(self.folder.iterdir())]


def write_decoder(folder: Path) -> Path:
    """A llama of 4 layers of 128 units that reads bytes, with random weights, and its tokenizer."""
    own = config("llama")
    own.hidden_size, own.intermediate_size, own.num_hidden_layers, own.num_attention_heads = 128, 256, 4, 8
    own.head_dim = 16
    own.vocab_size, own.eos_token_id, own.pad_token_id, own.bos_token_id = 320, 0, 0, None
    own.max_position_embeddings = POSITIONS
    model = AutoModelForCausalLM.from_config(own)
    randomise(model, 4, spread=0.12)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_pieces(backbone: Backbone, folder: Path, count: int, kinds: tuple[KindName, ...]) -> list[Piece]:
    """So many adapters, no two alike: all methods in turn, in all kinds in turn. The base must be in float32."""
    pieces: list[Piece] = []
    made = _adapters(backbone)
    for number, kind in zip(range(count), itertools.cycle(kinds), strict=False):
        method, adapter = next(made)
        if kind == "generate" and method == "invertible":  # is refused: it is undone before the language-model head
            method, adapter = next(made)
        head = None
        if kind in ("classify", "tokens", "regress"):
            head = tiny.head(backbone, kind, 1 if kind == "regress" else LABELS, 7 * number + 1)
        where = folder / f"{number:04d}"
        where.mkdir(parents=True)
        write_adapter(replace(adapter, kind=kind, head=head), where, backbone)
        pieces.append(Piece(f"piece-{number:04d}", method, kind, where))
    return pieces


def _adapters(backbone: Backbone) -> Iterator[tuple[str, Adapter]]:
    """One of each method, again and again, with other weights in each round."""
    for round_ in itertools.count(1):
        for method, adapter in every.adapters(backbone, round_ * 100, std=STD).items():
            yield method, replace(adapter, components=tuple(map(_as_written, adapter.components)))


def _as_written(component: Component) -> Component:
    """PEFT's IA3 rescales what a layer reads, or what it gives, and not both; fusions of large models are many MB."""
    match component.method:
        case "ia3":
            kept = {site: {"output": leaves["output"]} for site, leaves in component.tensors.items()}
            return replace(component, tensors=kept)
        case "fusion":
            sites = list(component.tensors)[-2:]
            return replace(component, tensors={site: component.tensors[site] for site in sites})
        case _:
            return component


def load(path: str) -> Backbone:
    """The backbone to make adapters for."""
    torch.set_num_threads(1)
    return Backbone.load(path, device="cpu", dtype="float32")
