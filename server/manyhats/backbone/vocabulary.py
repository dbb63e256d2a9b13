"""The language-model head: a checkpoint's modules between the last states and the vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from manyhats.backbone.families import family_of
from manyhats.backbone.sites import LM_HEAD

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VocabularyHead:
    """`module`: (S, width) to (S, vocabulary). `parts`: its modules, by name.

    `output_layer`: the name of the last of them. `tied`: whether its weight is the word embeddings'. `masked`: whether
    it predicts a masked token and not the next one. `bias_names`: the other names of its last layer's bias.
    """

    module: nn.Module
    parts: Mapping[str, nn.Module]
    output_layer: str
    tied: bool
    masked: bool = False
    bias_names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many logits it gives."""
        weight: Tensor = self.parts[self.output_layer].weight  # type: ignore[assignment]
        return len(weight)


def causal_head(model: PreTrainedModel) -> VocabularyHead:
    """The head of a causal language model."""
    head = model.get_output_embeddings()
    return VocabularyHead(head, {LM_HEAD: head}, LM_HEAD, head.weight is model.get_input_embeddings().weight)


class _GivenStates(nn.Module):
    """Replaces the encoder, and returns the given states."""

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.states)


class _MaskedHead(nn.Module):
    """transformers' model class without the encoder: each family's head is built differently."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.given = _GivenStates()
        setattr(model, model.base_model_prefix, self.given)
        self.model = model

    def forward(self, states: Tensor) -> Tensor:
        self.given.states = states[None]
        try:
            logits: Tensor = self.model(input_ids=None).logits
        finally:
            self.given.states = None
        return logits[0]


def masked_head(source: str, config: Any, bare: PreTrainedModel) -> VocabularyHead | None:
    """The head of a checkpoint that was saved from a masked language model; None for others.

    `bare`: the encoder, whose word embeddings a tied head shares.
    """
    if not any(name.endswith("ForMaskedLM") for name in getattr(config, "architectures", None) or []):
        return None
    model, info = AutoModelForMaskedLM.from_pretrained(  # nosec B615  # the operator names it
        source, config=config, dtype="auto", output_loading_info=True, trust_remote_code=False
    )
    last = model.get_output_embeddings()
    missing_keys = set(info["missing_keys"])
    if family_of(config.model_type).late_head_bias and last.bias is not None:
        own = {name for name, p in model.named_parameters(remove_duplicate=False) if p is last.bias}
        if own <= missing_keys:  # an older checkpoint, trained without a bias
            nn.init.zeros_(last.bias)
            missing_keys -= own
    if missing_keys:
        missing = ", ".join(sorted(missing_keys)[:3])
        logger.warning("the checkpoint of '%s' lacks weights of its masked language-model head: %s", source, missing)
        return None
    tied = last.weight is model.get_input_embeddings().weight
    if tied:
        last.weight = bare.get_input_embeddings().weight
    module = _MaskedHead(model)
    inside = {name: part for name, part in model.named_modules() if name and part is not module.given}
    output_layer = next(name for name, part in inside.items() if part is last)
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is last.bias]
    others = tuple(name for name in names if name != f"{output_layer}.bias")
    return VocabularyHead(module, inside, output_layer, tied, masked=True, bias_names=others)
