"""What whole parameters are besides their tensors, and how they are called."""

from __future__ import annotations

from typing import Final

from manyhats.methods.component import MethodConfig

NAME: Final = "parameters"
# What a component is called where it holds no more than this.
BIASES: Final = "bias"
NORMS: Final = "ln"


class ParametersConfig(MethodConfig):
    """Nothing: the leaves are the parameters."""
