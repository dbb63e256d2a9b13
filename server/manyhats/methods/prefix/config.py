"""The config of a prefix."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from manyhats.methods.component import MethodConfig

NAME: Final = "prefix"


class PrefixConfig(MethodConfig):
    """`shift_positions`: real tokens' positions start after the prefix (PEFT), or at the beginning (AdapterHub).

    `left_out`: layers that have no prefix.
    """

    length: int
    shift_positions: bool = True
    left_out: list[int] = Field(default_factory=list)


def layer_site(layer: int) -> str:
    """The site of a layer's keys and values in a component."""
    return f"layers.{layer}.key_value"
