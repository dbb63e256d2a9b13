"""The table of model families: the paths of their blocks, sub-layers and embeddings, and how they count positions.

Everything that differs between architectures stands here; Reformer, which differs most, has a module of its own. A new
family is one entry; `task_heads` has the heads of families whose task models differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhats.backbone.attention import packed_attention, reject_arguments
from manyhats.backbone.bert_block import attach_bert, prepare_bert
from manyhats.backbone.reformer import attach_reformer, prepare_reformer, prepare_reformer_config, reformer_length
from manyhats.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from manyhats.backbone.sites import ResidualSite


Attach = Callable[[Any, "ResidualSite", "ResidualSite"], bool]


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. Paths are relative to the bare model; `{i}` is the layer."""

    block: str  # one transformer block
    attention: str  # the module that calls the attention function, relative to the block
    attach: Attach  # puts the residual sites into a block; returns whether it can
    word_embeddings: str  # the table of the tokens' vectors
    same_input: tuple[tuple[str, ...], ...] = ()  # linear layers of a block that are called in turn with one tensor
    block_of: Callable[[Any, int], int] = lambda config, layer: layer  # layers may share a block
    first_position: Callable[[Any], int] = lambda config: 0
    token_types: bool = False  # takes token_type_ids
    causal: bool = False  # a decoder: tokens attend only to earlier ones
    language_model: bool = False  # checkpoints have a causal language-model head
    post_norm: bool = True  # blocks normalise after the sum, at the residual sites
    rotary: bool = False  # rotary embeddings of positions
    packed: bool = True  # its attention is dispatched by name; else it runs padded
    multiple_of: Callable[[Any, int], int] | None = None  # padded: the length to which a sequence is padded
    output_width: Callable[[Any], int] = lambda config: int(config.hidden_size)
    prepare_config: Callable[[Any], None] = lambda config: None  # changes the config before the model is loaded
    prepare: Callable[[Any], None] = lambda model: None  # changes the model before it gets sites
    unsupported: Callable[[Any], str | None] = lambda config: None  # why a packed pass would differ from the model's
    late_head_bias: bool = False  # transformers 5.24 added a bias to its masked head; older checkpoints have none
    shared_tables: tuple[str, ...] = ()  # embeddings that are read once for all sequences, so have no sites

    def block_name(self, config: Any, layer: int) -> str:
        """The path of a layer's block."""
        return self.block.format(i=self.block_of(config, layer))


def _post_norm_output(module: Any, site: ResidualSite) -> None:
    """MPNet's `MPNetOutput`: dense, dropout, LayerNorm(f + x)."""

    def forward(hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        f = module.dropout(module.dense(hidden_states))
        return site.join(f, input_tensor, module.LayerNorm)

    module.forward = forward


def _attach_distilbert(block: Any, attention: ResidualSite, ffn: ResidualSite) -> bool:
    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        f, _ = block.attention(hidden_states, attention_mask=attention_mask, **kwargs)
        x = attention.join(f, hidden_states, block.sa_layer_norm)
        return ffn.join(block.ffn(x), x, block.output_layer_norm)

    block.forward = forward
    return True


def _pre_norm(attention: str, attention_norm: str, feed_forward: str, feed_forward_norm: str) -> Attach:
    """Pre-norm blocks, which add each sub-layer's output without a norm; the names of their four modules."""

    def attach(block: Any, after_attention: ResidualSite, after_ffn: ResidualSite) -> bool:
        attend, norm_1 = getattr(block, attention), getattr(block, attention_norm)
        feed, norm_2 = getattr(block, feed_forward), getattr(block, feed_forward_norm)

        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            reject_arguments(block, {f"argument {i}": value for i, value in enumerate(args, 1)})
            f, _ = attend(hidden_states=norm_1(hidden_states), **kwargs)
            x = after_attention.join(f, hidden_states)
            return after_ffn.join(feed(norm_2(x)), x)

        block.forward = forward
        return True

    return attach


def _attach_albert(block: Any, attention: ResidualSite, ffn: ResidualSite) -> bool:
    inner = block.attention

    def attend(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, None]:
        shape = hidden_states.shape[:-1]
        q, k, v = (
            linear(hidden_states).view(*shape, -1, inner.attention_head_size).transpose(1, 2)
            for linear in (inner.query, inner.key, inner.value)
        )
        mixed, _ = packed_attention(inner, q, k, v, attention_mask, scaling=inner.scaling, **kwargs)
        f = inner.output_dropout(inner.dense(mixed.reshape(*shape, -1)))
        return attention.join(f, hidden_states, inner.LayerNorm), None

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x, _ = inner(hidden_states, *args, **kwargs)
        return ffn.join(block.ff_chunk(x), x, block.full_layer_layer_norm)

    inner.forward = attend
    block.forward = forward
    return True


def _attach_opt(block: Any, attention: ResidualSite, ffn: ResidualSite) -> bool:
    before = block.do_layer_norm_before
    norms = (block.self_attn_layer_norm, block.final_layer_norm)

    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        read = norms[0](hidden_states) if before else hidden_states
        f, _ = block.self_attn(hidden_states=read, **kwargs)
        x = attention.join(f, hidden_states, None if before else norms[0])
        read = norms[1](x) if before else x
        f = block.fc2(block.activation_fn(block.fc1(read)))
        return ffn.join(f, x, None if before else norms[1])

    block.forward = forward
    return True


def _attach_gpt_neox(block: Any, attention: ResidualSite, ffn: ResidualSite) -> bool:
    if block.use_parallel_residual:  # both sub-layers are added at once, so there are no sites between them
        return False
    return _pre_norm("attention", "input_layernorm", "mlp", "post_attention_layernorm")(block, attention, ffn)


def _attach_mpnet(block: Any, attention: ResidualSite, ffn: ResidualSite) -> bool:
    inner = block.attention

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        outputs = inner.attn(hidden_states, *args, **kwargs)
        joined = attention.join(inner.dropout(outputs[0]), hidden_states, inner.LayerNorm)
        return (joined, *outputs[1:])

    inner.forward = forward
    _post_norm_output(block.output, ffn)
    return True


def _albert_group(config: Any, layer: int) -> int:
    return int(layer / (config.num_hidden_layers / config.num_hidden_groups))


def _albert_unsupported(config: Any) -> str | None:
    count = config.inner_group_num
    return None if count == 1 else f"has groups of {count} ALBERT layers; groups of 1 are supported"


def _after_padding(config: Any) -> int:
    """RoBERTa counts positions from the padding index on."""
    return int(config.pad_token_id) + 1


def _bert_like(*, first_position: Callable[[Any], int] = lambda config: 0) -> Family:
    return Family(
        block="encoder.layer.{i}",
        attention="attention.self",
        attach=attach_bert,
        prepare=prepare_bert,
        word_embeddings="embeddings.word_embeddings",
        first_position=first_position,
        token_types=True,
    )


def _decoder(*, block: str, attention: str, attach: Attach, word_embeddings: str, **others: Any) -> Family:
    return Family(
        block=block,
        attention=attention,
        attach=attach,
        word_embeddings=word_embeddings,
        causal=True,
        language_model=True,
        post_norm=False,
        **others,
    )


_BERT = _bert_like()
_LLAMA = _decoder(
    block="layers.{i}",
    attention="self_attn",
    attach=_pre_norm("self_attn", "input_layernorm", "mlp", "post_attention_layernorm"),
    word_embeddings="embed_tokens",
    same_input=(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")),
    rotary=True,
)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _bert_like(first_position=_after_padding),
    "xlm-roberta": _bert_like(first_position=_after_padding),
    "electra": _BERT,
    "distilbert": Family(
        block="transformer.layer.{i}",
        attention="attention",
        attach=_attach_distilbert,
        same_input=(("attention.q_lin", "attention.k_lin", "attention.v_lin"),),
        word_embeddings="embeddings.word_embeddings",
    ),
    "gpt2": _decoder(
        block="h.{i}",
        attention="attn",
        attach=_pre_norm("attn", "ln_1", "mlp", "ln_2"),
        word_embeddings="wte",
    ),
    "albert": Family(
        block="encoder.albert_layer_groups.{i}.albert_layers.0",
        attention="attention",
        attach=_attach_albert,
        same_input=(("attention.query", "attention.key", "attention.value"),),
        word_embeddings="embeddings.word_embeddings",
        block_of=_albert_group,
        unsupported=_albert_unsupported,
        token_types=True,
    ),
    "modernbert": Family(
        block="layers.{i}",
        attention="attn",
        attach=_pre_norm("attn", "attn_norm", "mlp", "mlp_norm"),
        word_embeddings="embeddings.tok_embeddings",
        post_norm=False,
        rotary=True,
    ),
    "opt": _decoder(
        block="decoder.layers.{i}",
        attention="self_attn",
        attach=_attach_opt,
        same_input=(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),),
        word_embeddings="decoder.embed_tokens",
        output_width=lambda config: int(config.word_embed_proj_dim),
    ),
    "gpt_neox": _decoder(
        block="layers.{i}",
        attention="attention",
        attach=_attach_gpt_neox,
        word_embeddings="embed_in",
        rotary=True,
    ),
    "mpnet": Family(
        block="encoder.layer.{i}",
        attention="attention.attn",
        attach=_attach_mpnet,
        same_input=(("attention.attn.q", "attention.attn.k", "attention.attn.v"),),
        word_embeddings="embeddings.word_embeddings",
        first_position=_after_padding,
        packed=False,
        shared_tables=("encoder.relative_attention_bias",),
    ),
    "reformer": Family(
        block="encoder.layers.{i}",
        attention="attention.self_attention",
        attach=attach_reformer,
        word_embeddings="embeddings.word_embeddings",
        post_norm=False,
        packed=False,
        multiple_of=reformer_length,
        prepare_config=prepare_reformer_config,
        prepare=prepare_reformer,
        late_head_bias=True,
        output_width=lambda config: 2 * int(config.hidden_size),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def family_of(model_type: str) -> Family:
    """The entry for a config's `model_type`. Raises ConfigurationError naming the supported ones."""
    try:
        return FAMILIES[model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigurationError(f"backbones of type '{model_type}' are not supported; these are: {known}") from None
