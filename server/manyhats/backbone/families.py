"""The table of model families: where each keeps its blocks, sub-layers, positions and heads.

Everything that differs between architectures stands here and nowhere else. A new family is one entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhats.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from manyhats.backbone.sites import ResidualSite


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How a family's own classification head is built, as PEFT saves it under `modules_to_save`.

    `linears`: the names of its linear layers in order, an activation between each two. `pooled`: whether the
    first one reads the backbone's pooler rather than the first token's last hidden state.
    """

    linears: tuple[str, ...]
    activation: str = "tanh"
    pooled: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. Paths are relative to the bare model; `{i}` is the layer."""

    block: str  # one transformer block
    attention: str  # the module that calls the attention function, relative to the block
    sublayers: tuple[str, str]  # where AdapterHub's keys put an adapter: after attention, after feed-forward
    attach: Callable[[nn.Module, ResidualSite, ResidualSite], None]  # puts the residual sites into a block
    classification_head: HeadLayout
    first_position: Callable[[Any], int] = lambda config: 0
    token_types: bool = False  # takes token_type_ids


def _post_norm_output(module: Any, site: ResidualSite) -> None:
    """`BertSelfOutput`/`BertOutput`: dense, dropout, LayerNorm(f + x)."""

    def forward(hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        f = module.dropout(module.dense(hidden_states))
        return site.join(f, input_tensor, module.LayerNorm)

    module.forward = forward


def _attach_bert(block: Any, attention: ResidualSite, ffn: ResidualSite) -> None:
    _post_norm_output(block.attention.output, attention)
    _post_norm_output(block.output, ffn)


def _attach_distilbert(block: Any, attention: ResidualSite, ffn: ResidualSite) -> None:
    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        f, _ = block.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        x = attention.join(f, hidden_states, block.sa_layer_norm)
        return ffn.join(block.ffn(x), x, block.output_layer_norm)

    block.forward = forward


def _after_padding(config: Any) -> int:
    """RoBERTa counts positions from the padding index on."""
    return int(config.pad_token_id) + 1


def _bert_like(head: HeadLayout, *, first_position: Callable[[Any], int] = lambda config: 0) -> Family:
    return Family(
        block="encoder.layer.{i}",
        attention="attention.self",
        sublayers=("encoder.layer.{i}.attention.output", "encoder.layer.{i}.output"),
        attach=_attach_bert,
        classification_head=head,
        first_position=first_position,
        token_types=True,
    )


_DENSE_HEAD = HeadLayout(linears=("classifier.dense", "classifier.out_proj"))

FAMILIES: dict[str, Family] = {
    "bert": _bert_like(HeadLayout(linears=("classifier",), pooled=True)),
    "roberta": _bert_like(_DENSE_HEAD, first_position=_after_padding),
    "xlm-roberta": _bert_like(_DENSE_HEAD, first_position=_after_padding),
    "electra": _bert_like(HeadLayout(linears=_DENSE_HEAD.linears, activation="gelu")),
    "distilbert": Family(
        block="transformer.layer.{i}",
        attention="attention",
        sublayers=("transformer.layer.{i}.attention_adapters", "transformer.layer.{i}.output_adapters"),
        attach=_attach_distilbert,
        classification_head=HeadLayout(linears=("pre_classifier", "classifier"), activation="relu"),
    ),
}


def family_of(model_type: str) -> Family:
    """The entry for a config's `model_type`. Raises ConfigurationError naming the supported ones."""
    try:
        return FAMILIES[model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigurationError(f"backbones of type '{model_type}' are not supported; these are: {known}") from None
