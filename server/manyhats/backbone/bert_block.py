"""The blocks of BERT and its like, computed on rows, one after the other.

What transformers computes in ten modules a block, with a call, a reshape and a look at the arguments for each, is eight
steps between sites. For one short sentence those calls took a third of the pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from manyhats.backbone.attention import reject_arguments
from manyhats.backbone.joined_linear import JoinedLinear
from manyhats.backbone.sites import ResidualSite, site_of

if TYPE_CHECKING:
    from manyhats.backbone.attention import AttentionSite


def prepare_bert(model: Any) -> None:
    """Replaces the forward of the bare model: embeddings, then the blocks. There is no mask and no cache to make."""
    project = getattr(model, "embeddings_project", None)  # ELECTRA's embeddings may be narrower than its blocks

    def forward(input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor) -> BaseModelOutput:
        states = model.embeddings(input_ids=input_ids, position_ids=position_ids, token_type_ids=token_type_ids)
        if project is not None:
            states = project(states)
        for block in model.encoder.layer:
            states = block(states)
        return BaseModelOutput(last_hidden_state=states)

    model.forward = forward


def attach_bert(block: Any, after_attention: ResidualSite, after_ffn: ResidualSite) -> bool:
    """Replaces the forward of a block with post-norms; its linear layers and norms have their sites already."""
    inner, attended, fed = block.attention.self, block.attention.output, block.output
    layers = inner.query, inner.key, inner.value, attended.dense, block.intermediate.dense, fed.dense
    query, key, value, mix, widen, narrow = map(site_of, layers)
    joined = inner.manyhats_joined = JoinedLinear((query, key, value))
    attention_norm, ffn_norm = site_of(attended.LayerNorm), site_of(fed.LayerNorm)
    activation = block.intermediate.intermediate_act_fn
    heads, scaling = (inner.num_attention_heads, inner.attention_head_size), inner.scaling

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        reject_arguments(block, {f"argument {i}": value for i, value in enumerate(args, 1)} | kwargs)
        x = hidden_states.flatten(0, 1)
        rows = (len(x), *heads)
        site: AttentionSite = inner.manyhats_site
        q, k, v = (y.view(rows) for y in joined(x))
        mixed = site.rows(q, k, v, x, scaling, None)
        x = after_attention.join(mix.rows(mixed.flatten(1)), x, attention_norm)
        x = after_ffn.join(narrow.rows(activation(widen.rows(x))), x, ffn_norm)
        return x.view(hidden_states.shape)

    block.forward = forward
    return True
