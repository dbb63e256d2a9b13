"""Prompt tuning as a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from manyhats.errors import AdapterMismatch
from manyhats.methods.base import (
    BoundComponent,
    Method,
    Trainable,
    expect_leaves,
    expect_matrix,
    expect_shape,
    reject_padded,
)
from manyhats.methods.component import Component
from manyhats.methods.options import Options
from manyhats.methods.prompt.adapterhub import ADAPTERHUB
from manyhats.methods.prompt.config import NAME, PROMPT_SITE, PromptConfig
from manyhats.methods.prompt.operation import bind_prompt
from manyhats.methods.prompt.peft import P_TUNING, PEFT_WRITER, PROMPT_TUNING
from manyhats.methods.prompt.training import TrainablePrompt
from manyhats.methods.recipe import Recipe, Schedule

if TYPE_CHECKING:
    from manyhats.backbone import Backbone


class Prompt(Method[PromptConfig]):
    """Tensor at `embeddings`: `prompt` (length, width of the word embeddings)."""

    name: ClassVar[str] = NAME
    size_option: ClassVar[str] = "length"
    config = PromptConfig
    peft_types = (PROMPT_TUNING, P_TUNING)
    peft_writer = PEFT_WRITER
    adapterhub = ADAPTERHUB
    # Needs many steps, so batches are small.
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "prompt": Recipe(
            NAME, Schedule(1e-1, 2e-2, batch_tokens=256, weight_decay=0.0), "Lester et al. 2021", peft=True
        ),
        "p-tuning": Recipe(
            NAME, Schedule(3e-3, 2e-2, batch_tokens=256), "Liu et al. 2021", {"encoder": "lstm"}, peft=True
        ),
    }
    pooled_virtual_tokens = True

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
        prompt = component.tensors[PROMPT_SITE]["prompt"].to(backbone.dtype)
        return bind_prompt(prompt, component.config, backbone, prompt.nbytes)

    def rank(self, component: Component[PromptConfig]) -> int | None:
        return component.tensors[PROMPT_SITE]["prompt"].shape[0]

    def trainable(self, backbone: Backbone, options: Mapping[str, Any], generator: torch.Generator) -> Trainable:
        chosen = Options(options, method=self.name)
        length = chosen.integer("length", 16, minimum=1)
        encoder = chosen.choice("encoder", "none", ("none", "mlp", "lstm"))
        chosen.reject_unknown()
        reject_padded(backbone, "a prompt")
        return TrainablePrompt(backbone, length, encoder, generator)
