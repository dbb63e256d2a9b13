"""The config of full parameters, and their label."""

from __future__ import annotations

from typing import Final

from manyhats.methods.component import MethodConfig

NAME: Final = "parameters"
# Labels of components that hold only biases, or only norms.
BIASES: Final = "bias"
NORMS: Final = "ln"


class ParametersConfig(MethodConfig):
    """No fields: the tensors are the parameters."""
