"""Prompt tuning: learned vectors before every sequence's own (Lester et al. 2021, 2; P-tuning, Liu et al. 2021).

PEFT puts them in place of word embeddings, so that they get positions and the embeddings' norm, and real tokens move
on; AdapterHub puts them behind the whole embedding block, and real tokens keep their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from manyhats.backbone.sites import EMBEDDED
from manyhats.errors import AdapterMismatch
from manyhats.methods.base import (
    BoundComponent,
    Method,
    SequenceSlices,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
    reject_padded,
)
from manyhats.methods.component import Component, MethodConfig
from manyhats.methods.options import Options

if TYPE_CHECKING:
    from manyhats.backbone import Backbone, PackedBatch

PROMPT_SITE = "embeddings"


class PromptConfig(MethodConfig):
    """`after_embeddings`: the vectors stand behind the embedding block (AdapterHub), not in the table's place."""

    after_embeddings: bool = False


@dataclass(slots=True)
class _Prompt:
    """The first rows of every sequence of a segment become the prompt (length, width)."""

    prompt: Tensor

    def _put(self, y: Tensor, spans: SequenceSlices) -> Tensor:
        length = len(self.prompt)
        pieces = [piece for span in spans for piece in (self.prompt, y[span.start + length : span.stop])]
        return torch.cat(pieces)

    def look_up(self, ids: Tensor, y: Tensor, spans: SequenceSlices) -> Tensor:
        return self._put(y, spans)

    def enter(self, states: Tensor, spans: SequenceSlices, batch: PackedBatch, sequences: slice) -> Tensor:
        return self._put(states, spans)


class Prompt(Method[PromptConfig]):
    """Leaf at `embeddings`: `prompt` (length, width of the word embeddings)."""

    name: ClassVar[str] = "prompt"
    config = PromptConfig

    def check(self, component: Component[PromptConfig], backbone: Backbone) -> None:
        reject_padded(backbone, "a prompt")
        if set(component.tensors) != {PROMPT_SITE}:
            raise AdapterMismatch("a prompt acts on the embeddings alone", param="prompt")
        leaves = component.tensors[PROMPT_SITE]
        expect_leaves(leaves, ("prompt",), PROMPT_SITE)
        length = expect_matrix(leaves["prompt"], "prompt_embeddings")
        table = backbone.embedding[backbone.family.word_embeddings].module
        width = backbone.hidden if component.config.after_embeddings else table.embedding_dim
        expect_shape(leaves["prompt"], (length, width), "prompt_embeddings", backbone)
        if component.config.after_embeddings and backbone.family.rotary:
            raise AdapterMismatch(
                f"a prompt behind the embeddings has no positions of its own, which the backbone {backbone.name} "
                f"({backbone.config.model_type}) turns into its keys",
                param="prompt",
            )
        if length + 3 > backbone.max_tokens:
            raise AdapterMismatch(
                f"the prompt has {length} rows, which leaves no room in the backbone's {backbone.max_tokens} positions",
                param="num_virtual_tokens",
            )

    def bind(self, component: Component[PromptConfig], backbone: Backbone) -> BoundComponent:
        prompt = component.tensors[PROMPT_SITE]["prompt"].to(backbone.device, backbone.dtype)
        return _bound(prompt, component.config, backbone, prompt.nbytes)

    def rank(self, component: Component[PromptConfig]) -> int | None:
        return component.tensors[PROMPT_SITE]["prompt"].shape[0]

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        length = chosen.integer("length", 16, least=1)
        encoder = chosen.choice("encoder", "none", ("none", "mlp", "lstm"))
        chosen.done()
        reject_padded(backbone, "a prompt")
        return _TrainablePrompt(backbone, length, encoder, generator)


def _bound(prompt: Tensor, config: PromptConfig, backbone: Backbone, nbytes: int = 0) -> BoundComponent:
    length = len(prompt)
    step = _Prompt(prompt)
    if config.after_embeddings:
        return BoundComponent(states={EMBEDDED: step.enter}, virtual_tokens=length, nbytes=nbytes)
    words = backbone.family.word_embeddings
    return BoundComponent(embedding={words: step.look_up}, virtual_tokens=length, position_offset=length, nbytes=nbytes)


class _TrainablePrompt(Trainable):
    """`encoder`: what is added to the trained rows, `none`, or P-tuning's MLP of them, with or without the LSTM before
    it (Liu et al. 2021, section 3.2). It is dropped at saving. That the rows themselves are kept beside it is residual
    prompt tuning (Razdaibiedina et al. 2023, section 3): the encoder alone starts far from any word."""

    def __init__(self, backbone: Backbone, length: int, encoder: str, generator: torch.Generator) -> None:
        super().__init__()
        self.backbone = backbone
        # Rows of the vocabulary, which the paper found better than random ones (section 3.2).
        table = backbone.embedding[backbone.family.word_embeddings].module.weight
        rows = torch.randint(len(table), (length,), generator=generator)
        self.prompt = nn.Parameter(table[rows.to(table.device)].detach().float().clone())
        self.lstm: nn.LSTM | None = None
        self.mlp: nn.Sequential | None = None
        if encoder == "none":
            return
        width = table.shape[1]
        self.spread = float(self.prompt.detach().std())  # which the vocabulary's rows have, and the encoder's do not
        with torch.random.fork_rng(devices=[]):  # torch's own layers draw from the global source
            torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
            if encoder == "lstm":
                self.lstm = nn.LSTM(width, width // 2, num_layers=2, bidirectional=True)
            inner = width // 2 * 2 if encoder == "lstm" else width
            self.mlp = nn.Sequential(nn.Linear(inner, width), nn.ReLU(), nn.Linear(width, width))
        self.to(table.device)

    @property
    def rates(self) -> Mapping[str, float]:
        return {} if self.mlp is None else {"prompt": 30.0}  # an encoder would not bear the rate that rows need

    def _rows(self) -> Tensor:
        """(length, width)."""
        if self.mlp is None:
            return self.prompt
        rows = self.prompt / self.spread
        if self.lstm is not None:
            rows, _ = self.lstm(rows)
        encoded: Tensor = self.mlp(rows)
        return self.prompt + encoded * self.spread

    def bound(self) -> BoundComponent:
        return _bound(self._rows(), PromptConfig(), self.backbone)

    def component(self) -> Component[PromptConfig]:
        with torch.no_grad():
            return Component(Prompt.name, PromptConfig(), {PROMPT_SITE: {"prompt": self._rows().detach().cpu()}})
