"""Activation functions by the names that adapter files use.

transformers does not document `ACT2FN`, but libraries write its names into their files, and nothing public maps them to
functions. It is used here alone, and `tests/kernels/test_internals.py` watches it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from manyhats.errors import AdapterMismatch


@cache
def activation(name: str) -> Callable[[Tensor], Tensor]:
    """transformers' activation of that name, or AdapterHub's `leakyrelu`. Raises AdapterMismatch for other names.

    Activations with weights of their own (`prelu`, `xielu`) are not supported, because adapter files have no such
    weights.
    """
    if name.lower() == "leakyrelu":
        return F.leaky_relu
    try:
        function: Callable[[Tensor], Tensor] = ACT2FN[name.lower()]
    except KeyError:
        raise AdapterMismatch(f"the activation '{name}' is not known", param="non_linearity") from None
    if isinstance(function, nn.Module) and next(function.parameters(), None) is not None:
        raise AdapterMismatch(f"the activation '{name}' has weights of its own", param="non_linearity")
    return function
