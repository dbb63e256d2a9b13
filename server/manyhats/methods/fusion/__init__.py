"""AdapterFusion: attention over the outputs of several bottleneck adapters (Pfeiffer et al. 2021, section 3).

With h and the query what the last adapter reads (after its norm, or before it), r its residual, and
u_i = A_i(h) without residual:

    p = softmax_i( (W_q query + b_q) . (W_k k_i + b_k) )        k_i = v_i = u_i, or u_i + r with `residual_before`
    c = sum_i p_i W_v v_i  [+ r]        out = norm(c + x)

as AdapterHub's `BertFusion` computes it; its temperature is 1 here (there it falls to 1 during use).
"""

from manyhats.methods.fusion.config import FusionConfig, FusionFlags
from manyhats.methods.fusion.method import Fusion

__all__ = ["Fusion", "FusionConfig", "FusionFlags"]
