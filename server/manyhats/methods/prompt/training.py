"""Trains a soft prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from manyhats.methods.base import BoundComponent, Trainable
from manyhats.methods.component import Component
from manyhats.methods.prompt.config import NAME, PROMPT_SITE, PromptConfig
from manyhats.methods.prompt.operation import bind_prompt

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class TrainablePrompt(Trainable):
    """`encoder`: what is added to the trained rows: `none`, or P-tuning's MLP of them, with or without the LSTM before
    it (Liu et al. 2021, section 3.2). It is dropped at saving. Its output is added to the rows, as in residual prompt
    tuning (Razdaibiedina et al. 2023, section 3), because the encoder alone starts far from any word."""

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
        self.std = float(self.prompt.detach().std())  # of the vocabulary's rows; the encoder works on rows of std 1
        with torch.random.fork_rng(devices=[]):  # torch's layers use the global generator
            torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
            if encoder == "lstm":
                self.lstm = nn.LSTM(width, width // 2, num_layers=2, bidirectional=True)
            inner = width // 2 * 2 if encoder == "lstm" else width
            self.mlp = nn.Sequential(nn.Linear(inner, width), nn.ReLU(), nn.Linear(width, width))
        self.to(table.device)

    @property
    def rates(self) -> Mapping[str, float]:
        return {} if self.mlp is None else {"prompt": 30.0}  # the rows need a higher rate than the encoder

    def _rows(self) -> Tensor:
        """(length, width)."""
        if self.mlp is None:
            return self.prompt
        rows = self.prompt / self.std
        if self.lstm is not None:
            rows, _ = self.lstm(rows)
        encoded: Tensor = self.mlp(rows)
        return self.prompt + encoded * self.std

    def bound(self) -> BoundComponent:
        return bind_prompt(self._rows(), PromptConfig(), self.backbone)

    def component(self) -> Component[PromptConfig]:
        with torch.no_grad():
            return Component(NAME, PromptConfig(), {PROMPT_SITE: {"prompt": self._rows().detach().cpu()}})
