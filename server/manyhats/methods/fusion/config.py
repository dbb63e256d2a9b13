"""The config of a fusion: what changes its output besides its tensors."""

from __future__ import annotations

from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.component import MethodConfig

NAME = "fusion"


class FusionFlags(MethodConfig):
    """The fields of AdapterHub's fusion config that change the output."""

    key: bool = True
    query: bool = True
    value: bool = True
    query_before_ln: bool = False
    residual_before: bool = False
    value_before_softmax: bool = True


class FusionConfig(FusionFlags):
    """`members`: the adapters' configs, in the order of the fusion."""

    members: tuple[BottleneckConfig, ...]
