"""Bottleneck adapters: a small feed-forward net after a sub-layer (Houlsby et al. 2019; Pfeiffer et al. 2020).

    A(h) = (W_up act(W_down h + b_down) + b_up) * scaling

With f the sub-layer's output and x its residual input, in blocks that normalise after the sum:

    Houlsby     LN(f + A(f) + x)
    Pfeiffer    LN(f + A(LN(f + x)) + x)
    parallel    LN(f + A(x) + x)                                   (He et al. 2021)

The flags are those of AdapterHub's `BnConfig`; several adapters at one site act one after the other (its `Stack`).
In a compacter W_down and W_up are sums of Kronecker products (Karimi Mahabadi et al. 2021, section 3.2).
"""

from manyhats.methods.bottleneck.config import BottleneckConfig
from manyhats.methods.bottleneck.method import Bottleneck

__all__ = ["Bottleneck", "BottleneckConfig"]
