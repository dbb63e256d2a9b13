"""The sizes of a frozen model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manyhats.backbone.families import Family

_UNLIMITED = 1 << 20  # tokens, for models without a maximum position


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's sizes, from its config and family."""

    layers: int  # number of transformer blocks
    hidden: int  # width of the residual stream
    output_width: int  # width of the last hidden states
    kv_shape: tuple[int, int]  # key/value heads, head dimension
    max_tokens: int  # the maximum tokens of a sequence, special tokens included

    @classmethod
    def of(cls, config: Any, family: Family) -> ModelShape:
        """The sizes of the model with a config."""
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        positions = int(getattr(config, "max_position_embeddings", None) or _UNLIMITED)
        return cls(
            layers=int(config.num_hidden_layers),
            hidden=hidden,
            output_width=family.output_width(config),
            kv_shape=(
                int(getattr(config, "num_key_value_heads", None) or heads),
                int(getattr(config, "head_dim", None) or hidden // heads),
            ),
            max_tokens=positions - family.first_position(config),
        )
