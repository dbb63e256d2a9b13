"""Reformer's particularities: two residual streams, attention on chunks, and hashes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from manyhats.backbone.transformers_internals import reformer_encoder_output, reformer_layer_output

if TYPE_CHECKING:
    from torch import Tensor

    from manyhats.backbone.sites import ResidualSite


def prepare_reformer_config(config: Any) -> None:
    """Gives its hashes, which are random, a seed: the same input must have the same answer."""
    if config.hash_seed is None:
        config.hash_seed = 0


def prepare_reformer(model: Any) -> None:
    """Runs the blocks in a plain loop.

    transformers' encoder runs them in an autograd function that needs training mode and gradients of all weights; the
    outputs are the same.
    """
    encoder = model.encoder

    def forward(
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_hashes: int | None = None,
        orig_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        first = second = hidden_states
        for layer in encoder.layers:
            out = layer(
                prev_attn_output=first,
                hidden_states=second,
                attention_mask=attention_mask,
                num_hashes=num_hashes,
                orig_sequence_length=orig_sequence_length,
            )
            first, second = out.attn_output, out.hidden_states
        return reformer_encoder_output(
            hidden_states=encoder.layer_norm(torch.cat([first, second], dim=-1)),
            all_hidden_states=[],
            all_attentions=[],
            past_buckets_states=None,
        )

    encoder.forward = forward


def attach_reformer(block: Any, attention: ResidualSite, ffn: ResidualSite) -> bool:
    """Reversible blocks keep two streams: Y1 = X1 + attention(X2), Y2 = X2 + feed-forward(Y1)."""
    inner = block.attention.self_attention
    if getattr(inner, "num_buckets", 0) is None:
        _choose_buckets_by_length(inner)

    def forward(prev_attn_output: Tensor, hidden_states: Tensor, **kwargs: Any) -> Any:
        attended = block.attention(hidden_states=hidden_states, **kwargs)
        first = attention.join(attended.hidden_states, prev_attn_output)
        second = ffn.join(block.feed_forward(first), hidden_states)
        return reformer_layer_output(
            attn_output=first,
            hidden_states=second,
            attention_probs=attended.attention_probs,
            buckets=attended.buckets,
        )

    block.forward = forward
    return True


def _choose_buckets_by_length(attention: Any) -> None:
    """A checkpoint may leave the number of buckets open; transformers sets it by the first input, for all later ones.

    Here it is set for each length, so that an output does not depend on earlier inputs.
    """
    plain = attention.forward
    chosen_by_length: dict[int, Any] = {}

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        length = hidden_states.shape[1]
        attention.num_buckets = chosen_by_length.get(length)
        out = plain(hidden_states, *args, **kwargs)
        chosen_by_length[length] = attention.num_buckets
        attention.config.num_buckets = None
        return out

    attention.forward = forward


def reformer_length(config: Any, length: int) -> int:
    """The padded length: a multiple of its attention's chunks; a sequence shorter than one chunk is not padded."""
    chunks = [
        size
        for kind, size in (("lsh", config.lsh_attn_chunk_length), ("local", config.local_attn_chunk_length))
        if kind in config.attn_layers
    ]
    if length <= min(chunks):
        return length
    multiple = math.lcm(*chunks)
    return -(-length // multiple) * multiple
