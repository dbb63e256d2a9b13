"""The config of a bottleneck adapter: what changes its output besides its tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from manyhats.methods.component import MethodConfig

NAME = "bottleneck"


class BottleneckConfig(MethodConfig):
    """The fields of `BnConfig` that change the output. `scaling`: used where a site has no tensor of that name."""

    non_linearity: str = "relu"
    is_parallel: bool = False
    original_ln_before: bool = False
    original_ln_after: bool = True
    residual_before_ln: bool | Literal["post_add"] = True
    adapter_residual_before_ln: bool = False
    ln_before: bool = False
    ln_after: bool = False
    use_gating: bool = False
    scaling: float = Field(default=1.0, allow_inf_nan=False)
    epsilon: float = Field(default=1e-5, gt=0)  # of the adapter's own layer norms
