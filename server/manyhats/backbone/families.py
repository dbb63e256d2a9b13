"""The table of model families: where each keeps its blocks, sub-layers, positions and heads.

Everything that differs between architectures stands here and nowhere else. A new family is one entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from manyhats.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from manyhats.backbone.sites import ResidualSite


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How a family's own classification head is built, as PEFT saves it under `modules_to_save`.

    `linears`: the names of its linear layers in order, an activation between each two. `reads`: the first token's
    last hidden state, the last token's, or the backbone's pooler.
    """

    linears: tuple[str, ...]
    activation: str = "tanh"
    reads: Literal["first", "last", "pooler"] = "first"


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. Paths are relative to the bare model; `{i}` is the layer."""

    block: str  # one transformer block
    attention: str  # the module that calls the attention function, relative to the block
    sublayers: tuple[str, str]  # where AdapterHub's keys put an adapter: after attention, after feed-forward
    attach: Callable[[Any, ResidualSite, ResidualSite], None]  # puts the residual sites into a block
    classification_head: HeadLayout
    word_embeddings: str  # the table of the tokens' vectors
    token_head: str = "classifier"  # the linear layer of a token classification head
    first_position: Callable[[Any], int] = lambda config: 0
    token_types: bool = False  # takes token_type_ids
    causal: bool = False  # a decoder: each token sees those before it
    language_model: bool = False  # checkpoints bring a causal language-model head
    post_norm: bool = True  # blocks normalise after the sum, and hand that norm to the residual sites
    rotary: bool = False  # positions are turned into the keys, not added to the embeddings


def _attach_bert(block: Any, attention: ResidualSite, ffn: ResidualSite) -> None:
    for module, site in ((block.attention.output, attention), (block.output, ffn)):
        _post_norm_output(module, site)


def _post_norm_output(module: Any, site: ResidualSite) -> None:
    """`BertSelfOutput`/`BertOutput`: dense, dropout, LayerNorm(f + x)."""

    def forward(hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        f = module.dropout(module.dense(hidden_states))
        return site.join(f, input_tensor, module.LayerNorm)

    module.forward = forward


def _attach_distilbert(block: Any, attention: ResidualSite, ffn: ResidualSite) -> None:
    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        f, _ = block.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        x = attention.join(f, hidden_states, block.sa_layer_norm)
        return ffn.join(block.ffn(x), x, block.output_layer_norm)

    block.forward = forward


def _attach_gpt2(block: Any, attention: ResidualSite, ffn: ResidualSite) -> None:
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        f, _ = block.attn(block.ln_1(hidden_states), use_cache=False)
        x = attention.join(f, hidden_states)
        return ffn.join(block.mlp(block.ln_2(x)), x)

    block.forward = forward


def _attach_llama(block: Any, attention: ResidualSite, ffn: ResidualSite) -> None:
    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        f, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_states), **kwargs)
        x = attention.join(f, hidden_states)
        return ffn.join(block.mlp(block.post_attention_layernorm(x)), x)

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
        word_embeddings="embeddings.word_embeddings",
        first_position=first_position,
        token_types=True,
    )


def _llama_like(token_head: str = "score") -> Family:
    return Family(
        block="layers.{i}",
        attention="self_attn",
        sublayers=("layers.{i}.attention_adapters", "layers.{i}.output_adapters"),
        attach=_attach_llama,
        classification_head=HeadLayout(linears=("score",), reads="last"),
        word_embeddings="embed_tokens",
        token_head=token_head,
        causal=True,
        language_model=True,
        post_norm=False,
        rotary=True,
    )


_DENSE_HEAD = HeadLayout(linears=("classifier.dense", "classifier.out_proj"))

FAMILIES: dict[str, Family] = {
    "bert": _bert_like(HeadLayout(linears=("classifier",), reads="pooler")),
    "roberta": _bert_like(_DENSE_HEAD, first_position=_after_padding),
    "xlm-roberta": _bert_like(_DENSE_HEAD, first_position=_after_padding),
    "electra": _bert_like(HeadLayout(linears=_DENSE_HEAD.linears, activation="gelu")),
    "distilbert": Family(
        block="transformer.layer.{i}",
        attention="attention",
        sublayers=("transformer.layer.{i}.attention_adapters", "transformer.layer.{i}.output_adapters"),
        attach=_attach_distilbert,
        classification_head=HeadLayout(linears=("pre_classifier", "classifier"), activation="relu"),
        word_embeddings="embeddings.word_embeddings",
    ),
    "gpt2": Family(
        block="h.{i}",
        attention="attn",
        sublayers=("h.{i}.attention_adapters", "h.{i}.output_adapters"),
        attach=_attach_gpt2,
        classification_head=HeadLayout(linears=("score",), reads="last"),
        word_embeddings="wte",
        causal=True,
        language_model=True,
        post_norm=False,
    ),
    "llama": _llama_like(),
    "mistral": _llama_like(),
    "qwen2": _llama_like(),
    "qwen3": _llama_like(),
}


def family_of(model_type: str) -> Family:
    """The entry for a config's `model_type`. Raises ConfigurationError naming the supported ones."""
    try:
        return FAMILIES[model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigurationError(f"backbones of type '{model_type}' are not supported; these are: {known}") from None
