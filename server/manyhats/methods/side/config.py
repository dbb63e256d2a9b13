"""The config of a side network."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from manyhats.methods.component import MethodConfig

NAME: Final = "side"
SIDE_SITE = "side"
NETWORK = "network."  # the prefix of the network's tensors
MAX_LAYERS = 64


class SideConfig(MethodConfig):
    """`kind`: its own model (`model`: its transformers config), or `layers` blocks of the backbone's kind."""

    kind: Literal["model", "layers"]
    model: dict[str, Any] = Field(default_factory=dict)
    layers: int = Field(default=0, ge=0, le=MAX_LAYERS)
